"""The file of records read by the tools that people have: DuckDB, pandas, JSON Schema."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import msgspec
import pytest
from stagewright.adapters import LearningRecord, open_controller
from stagewright.adapters.projections.learning.records import record_schema

from .learning import NAME, bytes_of, cancelled, records, remade
from .resuming import FOUR, dies_at, painted, painter, ran, small
from .support import ScriptedBackend

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "learning-records.md").read_text(encoding="utf-8")
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
PROGRAMS = re.findall(r"```python\n(import pandas.*?)```", PAGE, re.DOTALL)
HOSTILE: tuple[Mapping[str, Any], ...] = (
    {"Steps": 1, "steps": "two", "": {"": []}, "a.b": {"A": 1, "a": 2}, "sampler_name": {}},
    {"steps": [1, {"x": None}], "2026-11-20": "2026-11-20", "NULL": None, "sampler_name": 3},
    {"steps": 2**70, "ключ": "\x00\x1b[31m", "'; DROP TABLE runs; --": '"', "sampler_name": "x"},
)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with a folder of runs: of one kind, of every kind, of hostile servers."""
    made = {name: tmp_path_factory.mktemp(name) for name in ("one", "every", "hostile")}
    ran(made["one"] / "runs", small(images=1))
    every = made["every"] / "runs"
    handle = open_controller(every).start(small(*FOUR, images=2))
    assert handle.wait(30).state == "COMPLETED"
    ran(every, small("txt2img", "upscale"), painter(dies_at(("01-upscale", 1))))
    cancelled(every, small(images=3))
    ran(every, small("upscale", images=1, input_image=f"run:{handle.run_id}"))
    for info in HOSTILE:
        backend = ScriptedBackend(info=info, images=painted)
        ran(made["hostile"] / "runs", small(metadata={"varied": dict(HOSTILE[0])}), backend)
    for folder in made.values():
        assert remade(folder / "runs")
    return made


@pytest.fixture(params=["one", "every", "hostile"])
def world(
    worlds: dict[str, Path], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Each of them in turn, and the program stands in it."""
    monkeypatch.chdir(worlds[request.param])
    return worlds[request.param]


@pytest.fixture
def everything(worlds: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one with runs of every kind, and the program stands in it."""
    monkeypatch.chdir(worlds["every"])
    return worlds["every"]


def ask(query: str) -> list[Any]:
    """The rows that DuckDB answers with, in a database of its own."""
    import duckdb  # here: each process of a run of all tests imports this file

    with duckdb.connect() as database:
        return database.execute(query).fetchall()


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("query", QUERIES)
def test_every_query_of_the_page_runs_over_all_kinds_of_runs(query: str) -> None:
    """Also where every list is empty, nothing failed, or a server says what it likes."""
    ask(query)


@pytest.mark.usefixtures("everything")
def test_the_queries_of_the_page_find_what_they_ask_for() -> None:
    """Stages with times, ends with reasons, images that are missing."""
    times, ends, _, _, missing = map(ask, QUERIES)  # there are five
    assert {row[0] for row in times} == set(FOUR)
    assert all(row[4] > 0 for row in times)
    assert {(row[0], row[1]) for row in ends} == {
        ("completed", None), ("failed", "BackendError"), ("cancelled", None)
    }  # fmt: skip
    assert sorted(row[1:] for row in missing) == [
        (1, "00-txt2img", None),
        (1, "01-upscale", "BackendError"),
        (2, "00-txt2img", None),
    ]


def test_a_sweep_and_another_sampler_than_was_asked_for_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two queries that need a run of their own."""
    info = {"sampler_name": "DDIM", "extra_generation_params": {"Refiner": "sd_xl"}}
    config = small(images=1, metadata={"varied": {"txt2img.cfg_scale": 7.5}})
    ran(tmp_path / "runs", config, ScriptedBackend(info=info, images=painted))
    (line,) = remade(tmp_path / "runs")
    line |= {"group_id": "my-sweep", "variant_index": 3}
    (tmp_path / "runs" / NAME).write_text(json.dumps(line) + "\n")
    monkeypatch.chdir(tmp_path)
    _, _, used, sweep, _ = map(ask, QUERIES)
    assert used == [(line["run_id"], "00-txt2img", "Euler a", "DDIM", "sd_xl")]
    ((variant, cfg_scale, seed, _, file),) = sweep
    assert (variant, cfg_scale, seed) == (3, "7.5", 100)
    assert Path(file).is_file()


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_program_of_the_page_runs(program: str) -> None:
    """As it stands, over all kinds of runs."""
    with redirect_stdout(io.StringIO()) as printed:
        exec(program, {})
    assert "txt2img" in printed.getvalue()
    assert "images/00-txt2img/" in printed.getvalue()


def test_duckdb_and_pandas_read_every_record(world: Path) -> None:
    """As many rows as runs, and the columns of a record; times are times."""
    import pandas

    told = records(world / "runs")
    (row,) = ask(f"SELECT count(*), typeof(any_value(ended_at)) FROM 'runs/{NAME}'")
    assert row == (len(told), "TIMESTAMP WITH TIME ZONE")
    table = pandas.read_json(f"runs/{NAME}", lines=True)
    assert list(table.columns) == list(LearningRecord.__struct_fields__)
    assert list(table.run_id) == [one["run_id"] for one in told]
    assert str(table.ended_at.dtype).startswith("datetime64")


def types_of(runs: Path) -> list[Any]:
    """The columns of a file and their types as DuckDB sees them."""
    return ask(f"DESCRIBE SELECT * FROM '{runs / NAME}'")


def test_the_types_of_the_columns_are_the_same_whatever_servers_say(
    worlds: dict[str, Path],
) -> None:
    """A hostile ``info`` makes neither a key nor a type that others lack."""
    assert types_of(worlds["hostile"] / "runs") == types_of(worlds["one"] / "runs")


def test_records_are_what_their_schema_says(worlds: dict[str, Path]) -> None:
    """Each decodes strictly into the struct of the schema and back: all have the same keys."""
    for world in worlds.values():
        for line in bytes_of(world / "runs").splitlines():
            record = msgspec.json.decode(line, type=LearningRecord, strict=True)
            assert msgspec.json.encode(record) == line
            assert list(json.loads(line)) == record_schema()["$defs"]["LearningRecord"]["required"]


def test_the_page_lists_the_fields_that_there_are() -> None:
    """docs/learning-records.md equals the page with the fields made from the code."""
    specification = importlib.util.spec_from_file_location(
        "make_learning_reference", DOCS / "make_learning_reference.py"
    )
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert module.page() == PAGE


def test_more_runs_than_duckdb_looks_at_are_read_all_the_same(
    worlds: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``sample_size = -1``, as the page says, also where the last ones are the odd ones."""
    plain = bytes_of(worlds["one"] / "runs")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / NAME).write_bytes(plain * 20_480 + bytes_of(worlds["every"] / "runs"))
    monkeypatch.chdir(tmp_path)
    ask(QUERIES[1].replace(f"'runs/{NAME}'", f"read_json('runs/{NAME}', sample_size = -1)"))


def test_the_example_says_in_one_line_that_there_are_no_records(tmp_path: Path) -> None:
    """Where no run has ended, or there is no such folder."""
    example = DOCS.parent / "examples" / "learn_from_runs.py"
    done = subprocess.run(
        [sys.executable, str(example), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{tmp_path / NAME}: No such file")
    assert done.stderr.count("\n") == 1
