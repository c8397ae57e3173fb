"""The log that several processes append to, by the ratings that are kept in one."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from itertools import count
from pathlib import Path
from random import Random

import pytest
from stagewright.events import EventLogError, LogCorruptError, LogWriteError
from stagewright.events.log.shared_log import SharedLog
from stagewright.events.log.storage import Storage
from stagewright.events.log.verified_scan import LogPosition
from stagewright.events.ratings.log import RATINGS_LOG, RatedImage, Ratings, RatingsFile
from stagewright.events.ratings.model import Rating, RatingsOpened

from .command_line import until
from .faulty_storage import Deed, Fault, FaultyStorage, SimulatedCrash
from .log_format import make_log, split_bodies, split_lines
from .simulated_disk import SimulatedDisk, Sync

LOG = "ratings.jsonl"
RATE_MANY = """
import sys
from pathlib import Path
from stagewright.events.ratings.log import RatedImage, Ratings
from stagewright.events.ratings.model import Rating
ratings = Ratings(Path(sys.argv[1]))
for place in range(int(sys.argv[3])):
    image = RatedImage(f"{sys.argv[2]}-{place}", "run", "00-txt2img", place)
    ratings.rate([image], lambda _old: Rating(score=3))
    print(image.source_sha256, flush=True)
"""


def image(index: int) -> RatedImage:
    """An image; its index says which."""
    return RatedImage(sha256(b"%d" % index).hexdigest(), "run", "00-txt2img", index)


def rate(ratings: Ratings, *indexes: int, score: int = 4) -> None:
    """Give images a score."""
    ratings.rate([image(index) for index in indexes], lambda _old: Rating(score=score))


def rated(ratings: Ratings, most: int = 100) -> list[int]:
    """The indexes of the images that have a score."""
    return [index for index in range(most) if ratings.of(image(index).source_sha256)]


def quick() -> Storage:
    """A storage without syncs, for tests of what is written."""
    storage = Storage()
    storage.syncs = False
    return storage


def events_in(runs: Path) -> list[dict[str, object]]:
    """The events of the log as they are on disk, in order."""
    return [json.loads(body) for body in split_bodies((runs / LOG).read_bytes())]


def test_the_log_has_the_format_of_a_runs_log_and_an_envelope_of_its_own(tmp_path: Path) -> None:
    """Each line is framed and chained, and each event names its writer."""
    rate(Ratings(tmp_path), 0, 1)
    data = (tmp_path / LOG).read_bytes()
    assert make_log(split_bodies(data)) == data
    envelopes = [list(event)[:7] for event in events_in(tmp_path)]
    assert envelopes == [["type", "v", "seq", "ts", "host", "boot_id", "pid"]] * 3
    assert [event["seq"] for event in events_in(tmp_path)] == [0, 1, 2]
    assert {path.name for path in tmp_path.iterdir()} == {LOG, "ratings.lock"}


def test_a_time_without_microseconds_has_six_digits_in_a_shared_log() -> None:
    """The format of times is that of a run's log."""
    body = b'{"type":"RatingsOpened","v":1,"seq":0,"ts":"2026-11-20T22:52:26.000000Z",'
    body += b'"host":"h","boot_id":"b","pid":1,"software":"s"}'
    assert RATINGS_LOG.codec.encode(RATINGS_LOG.codec.decode(body)) == body


def test_a_reader_goes_on_from_where_it_was_and_leaves_an_incomplete_tail_alone(
    tmp_path: Path,
) -> None:
    """A half-written record is no error for a reader; once it is whole, it is read."""
    reader, writer = Ratings(tmp_path), Ratings(tmp_path)
    reader.read()
    assert rated(reader) == []
    rate(writer, 0)
    reader.read()
    before = (tmp_path / LOG).read_bytes()
    rate(writer, 1)
    whole = (tmp_path / LOG).read_bytes()
    for size in range(len(before), len(whole)):
        (tmp_path / LOG).write_bytes(whole[:size])
        reader.read()
        assert rated(reader) == [0]
    (tmp_path / LOG).write_bytes(whole)
    reader.read()
    assert rated(reader) == [0, 1]


def test_the_next_writer_repairs_a_torn_tail_wherever_it_was_cut(tmp_path: Path) -> None:
    """The tail is copied aside, cut off and recorded; every whole rating stays."""
    rate(Ratings(tmp_path), 0, 1)
    whole = (tmp_path / LOG).read_bytes()
    sound = len(whole) - len(split_lines(whole)[-1])
    for size in range(sound + 1, len(whole), 5):
        folder = tmp_path / str(size)
        folder.mkdir()
        (folder / LOG).write_bytes(whole[:size])
        rate(Ratings(folder, storage=quick()), 2)
        *_, repaired, last = events_in(folder)
        tail = whole[sound:size]
        assert (
            repaired
            | {
                "type": "LogRepaired",
                "offset": sound,
                "bytes": len(tail),
                "sha256": sha256(tail).hexdigest(),
                "copied_to": f"{LOG}.torn-2",
            }
            == repaired
        )
        assert (folder / f"{LOG}.torn-2").read_bytes() == tail
        assert last["type"] == "ImageRated"
        assert rated(Ratings.read_from(folder)) == [0, 2]


def test_a_repair_that_was_not_recorded_is_recorded_by_the_next_writer(tmp_path: Path) -> None:
    """A writer that died between cut and record leaves the copy, which the next one records."""
    writer = Ratings(tmp_path)
    rate(writer, 0)
    (tmp_path / f"{LOG}.torn-2").write_bytes(b"torn")
    rate(writer, 1)
    assert [event["type"] for event in events_in(tmp_path)][2:] == ["LogRepaired", "ImageRated"]


@pytest.mark.parametrize("place", range(3))
def test_nothing_is_written_to_a_corrupt_log(place: int, tmp_path: Path) -> None:
    """Reader and writer name offset and record of a byte that was flipped."""
    rate(Ratings(tmp_path), 0, 1)
    whole = (tmp_path / LOG).read_bytes()
    lines = split_lines(whole)
    offset = sum(map(len, lines[:place]))
    for at in range(offset, offset + len(lines[place]) - 1, 17):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        (tmp_path / LOG).write_bytes(damaged)
        ratings = Ratings(tmp_path, storage=quick())
        with pytest.raises(LogCorruptError) as caught:
            ratings._log.writing().__enter__()
        assert (caught.value.offset, caught.value.seq) == (offset, place)
        assert "begin a new one" in str(caught.value)
        assert (tmp_path / LOG).read_bytes() == damaged


def test_a_reader_reports_a_corrupt_log_after_what_is_sound(tmp_path: Path) -> None:
    """The ratings before the damage have been read when the error comes."""
    rate(Ratings(tmp_path), 0, 1)
    data = bytearray((tmp_path / LOG).read_bytes())
    data[-10] ^= 1
    (tmp_path / LOG).write_bytes(data)
    ratings = Ratings(tmp_path)
    with pytest.raises(LogCorruptError):
        ratings.read()
    assert rated(ratings) == [0]


def rating_process(runs: Path, name: str | int, count: int) -> subprocess.Popen[str]:
    """A process that rates so many images, and prints each once its rating is durable."""
    command = [sys.executable, "-c", RATE_MANY, str(runs), str(name), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def shared_log(runs: Path, seen: list[int], start: LogPosition | None = None) -> SharedLog:
    """The log of ratings that notes the sequence numbers of the events that it observes."""
    return SharedLog(
        RatingsFile,
        runs,
        begin=lambda at: RatingsOpened(**at, software="tests"),
        observe=lambda events: seen.extend(event.seq for event in events),
        start=start,
    )


def test_a_later_process_goes_on_behind_a_stored_position(tmp_path: Path) -> None:
    """Only the events behind the position are observed, and appending goes on from there."""
    rate(Ratings(tmp_path), 0, 1)
    first: list[int] = []
    log = shared_log(tmp_path, first)
    log.read()
    rate(Ratings(tmp_path), 2)
    later: list[int] = []
    resumed = shared_log(tmp_path, later, start=log.position)
    resumed.read()
    with resumed.writing() as writer:
        writer.append(lambda at: RatingsOpened(**at, software="again"))
    assert (first, later) == ([0, 1, 2], [3, 4])


def test_a_position_of_another_log_is_refused_even_where_the_size_is_equal(tmp_path: Path) -> None:
    """A log that was replaced by another is never appended to with the chain of the old one."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        rate(Ratings(folder), 0, 1)
    log = shared_log(here, [])
    log.read()
    stale = there.joinpath(LOG).read_bytes()
    here.joinpath(LOG).write_bytes(stale)
    for use in (log.read, log.writing().__enter__):
        with pytest.raises(LogCorruptError):
            use()
    here.joinpath(LOG).write_bytes(stale[:100])
    with pytest.raises(LogCorruptError):
        log.read()
    here.joinpath(LOG).unlink()
    with pytest.raises(EventLogError, match="gone"):
        log.read()
    assert not here.joinpath(LOG).exists()


def test_processes_that_rate_at_once_lose_nothing(tmp_path: Path) -> None:
    """Eight begin the log together and rate 200 images: all there, each once, also for a reader."""
    processes = [rating_process(tmp_path, name, 25) for name in range(8)]
    seen: list[int] = []
    reader = shared_log(tmp_path, seen)

    def all_ended() -> bool:
        reader.read()
        return all(process.poll() is not None for process in processes)

    until(all_ended, "the end of all processes", timeout_s=60)
    for process in processes:
        process.communicate(timeout=30)
        assert process.returncode == 0
    reader.read()
    assert seen == list(range(201))
    sources = Counter(event.get("source_sha256") for event in events_in(tmp_path))
    assert sources == Counter(
        [None, *(f"{name}-{place}" for name in range(8) for place in range(25))]
    )
    data = (tmp_path / LOG).read_bytes()
    assert make_log(split_bodies(data)) == data


@pytest.mark.posix
def test_no_confirmed_rating_is_lost_when_writers_are_killed_at_random(tmp_path: Path) -> None:
    """kill -9 of three writers, one after the other, while two others and a reader go on."""
    others = [rating_process(tmp_path, name, 60) for name in "ab"]
    seen: list[int] = []
    reader = shared_log(tmp_path, seen)
    confirmed: list[str] = []
    for name in "cde":
        doomed = rating_process(tmp_path, name, 1_000_000)
        assert doomed.stdout is not None
        confirmed += [doomed.stdout.readline() for _ in range(20)]
        doomed.kill()
        rest, _ = doomed.communicate()
        confirmed += [line for line in rest.splitlines(keepends=True) if line.endswith("\n")]
        reader.read()
    for process in others:
        output, _ = process.communicate()
        assert process.returncode == 0
        confirmed += output.splitlines()
    reader.read()
    assert seen == list(range(len(seen)))
    sources = Counter(event.get("source_sha256") for event in events_in(tmp_path))
    assert {line.strip() for line in confirmed} <= set(sources)
    assert max(sources[line.strip()] for line in confirmed) == 1
    assert len(confirmed) > 170


class Story:
    """Two processes rate, faults befall them, power is lost; ``broken`` is what went wrong."""

    def __init__(
        self,
        folder: Path,
        random: Random,
        faults: Sequence[Fault | None],
        ignored: frozenset[Sync] = frozenset(),
    ) -> None:
        self._runs = folder / "runs"
        folder.mkdir()
        self._random = random
        self._disk = SimulatedDisk(folder, random, ignored=ignored)
        self._storages = [FaultyStorage(self._disk, fault) for fault in faults]
        self._confirmed: list[int] = []
        self.met = False
        try:
            self._tell()
            self.broken = self._what_is_wrong()
        except LogCorruptError as error:
            self.broken = str(error)

    def _tell(self) -> None:
        random = self._random
        writers = [self._writer(storage) for storage in self._storages]
        for index, place in enumerate((0, 0, 1, 0, 1)):
            try:
                self._rate(writers[place], index)
            except SimulatedCrash:
                if random.random() < 0.5:
                    self._disk.lose_power()
                    writers = [self._writer(FaultyStorage(self._disk)) for _ in writers]
        self._disk.lose_power()
        self.met = any(storage.fault_met for storage in self._storages)

    def _writer(self, storage: Storage) -> Ratings:
        return Ratings(self._runs, storage=storage)

    def _rate(self, ratings: Ratings, index: int) -> None:
        # A record ends in another page than it begins in.
        with contextlib.suppress(LogWriteError):
            ratings.rate([image(index)], lambda _old: Rating(score=1, note="n" * 3000))
            self._confirmed.append(index)

    def _what_is_wrong(self) -> str:
        last = self._writer(FaultyStorage(self._disk))
        last.rate([image(20)], lambda _old: Rating(score=1))
        self._disk.lose_power()
        found = rated(Ratings.read_from(self._runs))
        if not (self._runs / LOG).exists():
            return "the log is lost"
        if lost := {*self._confirmed, 20} - set(found):
            return f"lost {lost}"
        times = Counter(event.get("image_index") for event in events_in(self._runs))
        twice = [one for one in found if times[one] > 1]
        return f"twice {twice}" if twice else ""


@pytest.mark.parametrize("deed", list(Deed))
def test_no_confirmed_rating_is_lost_wherever_a_writer_dies(deed: Deed, tmp_path: Path) -> None:
    """At each operation a writer dies or meets an error, another goes on, and power is lost."""
    for at in count(1):
        met = False
        for seed in range(2):
            folder = tmp_path / f"{at}-{seed}"
            story = Story(folder, Random(seed), (Fault(at=at, deed=deed), None))
            assert not story.broken, (at, seed)
            met = met or story.met
        if not met:
            assert at > 10
            return


def random_story(folder: Path, seed: int, ignored: frozenset[Sync] = frozenset()) -> Story:
    """A story in which something befalls both writers."""
    random = Random(seed)
    deeds = (Deed.DIE_BEFORE, Deed.DIE_AFTER, Deed.FAIL)
    faults = [Fault(at=random.randint(1, 16), deed=random.choice(deeds)) for _ in range(2)]
    return Story(folder / str(seed), random, faults, ignored)


def test_no_confirmed_rating_is_lost_where_both_writers_die(tmp_path: Path) -> None:
    """Faults befall both writers at random."""
    assert [seed for seed in range(40) if random_story(tmp_path, seed).broken] == []


@pytest.mark.parametrize("sync", list(Sync))
def test_each_barrier_that_is_removed_is_noticed(sync: Sync, tmp_path: Path) -> None:
    """A disk that ignores one kind of sync breaks a promise, so each kind is needed."""
    stories = (random_story(tmp_path, seed, frozenset({sync})) for seed in range(600))
    assert any(story.broken for story in stories), f"nothing went wrong without a sync of {sync}"
