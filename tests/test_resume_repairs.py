"""Resume of logs whose end is torn: copied aside, cut, recorded."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from stagewright.events import (
    LogRepaired,
    replay,
)
from stagewright.statemachine.resume.verify import verify_run

from .log_format import split_lines
from .resuming import (
    FOUR,
    LOG,
    comparable,
    copied,
    cut,
    epoch_of,
    ran,
    resumed,
    small,
    words,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sealed run of four stages and two images, in 36 records."""
    return ran(tmp_path_factory.mktemp("whole"), small(*FOUR))


def torn_tails(lines: list[bytes], records: int) -> dict[str, bytes]:
    """Tails of each kind that a crash may leave behind so many records."""
    line = lines[records]
    return {
        "a byte": line[:1],
        "in the header": line[:20],
        "the header": line[:48],
        "in the record": line[: len(line) // 2],
        "no newline": line[:-1],
        "zeros": bytes(512),
        "zeros in the record": line[:60] + bytes(len(line) - 61) + b"\n",
        "two records": line[:60] + bytes(len(line) - 60) + lines[records + 1][:30],
    }


@pytest.mark.parametrize("records", [1, 4, 12])
@pytest.mark.parametrize("kind", list(torn_tails([b"x" * 99] * 2, 0)))
def test_a_torn_tail_is_copied_aside_cut_and_recorded_first(
    whole: Path, tmp_path: Path, kind: str, records: int
) -> None:
    """LogRepaired names the place, the size, the digest and the copy, which holds what was cut."""
    folder = copied(whole, tmp_path)
    lines = split_lines((folder / LOG).read_bytes())
    tail = torn_tails(lines, records)[kind]
    cut(folder, records, torn=tail)
    result = resumed(folder)
    repaired = epoch_of(result, 1)[0]
    assert isinstance(repaired, LogRepaired)
    assert repaired.seq == records
    assert repaired.offset == sum(map(len, lines[:records]))
    assert (repaired.bytes, repaired.sha256) == (len(tail), sha256(tail).hexdigest())
    assert (folder / repaired.copied_to).read_bytes() == tail
    assert (folder / repaired.copied_to).parent == folder
    assert comparable(result) == comparable(replay(whole))


def test_a_sealed_run_with_a_torn_tail_is_repaired_and_sealed(whole: Path, tmp_path: Path) -> None:
    """Nothing else is to be done."""
    folder = copied(whole, tmp_path)
    cut(folder, 36, torn=b'{"h":"000')
    result = resumed(folder)
    assert words(epoch_of(result, 1)) == ["LogRepaired", "RunSealed"]
    assert verify_run(folder).finished
