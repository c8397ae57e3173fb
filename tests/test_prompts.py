"""Prompts of a run: rows, files, seeds, inputs, and the requests that they give."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stagewright.adapters import PillowInputReader
from stagewright.events import ImagePrompt, RunOpened, fold, iterate
from stagewright.events.codec import json_values
from stagewright.statemachine import InvalidStagePlanError, build_stage_execution_plan
from stagewright.statemachine.config.document import check_config, parse_document
from stagewright.statemachine.config.inputs import load_config, resolve_config
from stagewright.statemachine.config.prompts import draw_prompts
from stagewright.statemachine.errors import ConfigurationError
from stagewright.statemachine.plan.plan import StageExecutionPlan
from stagewright.statemachine.run.requests import request_breaks, request_spans, span_of

from .resuming import asked, controller, cut_before, files, made, painter, resumed
from .support import document, png, run_opened

READER = PillowInputReader()


def rows(*prompts: Any, **top: Any) -> dict[str, Any]:
    """A small configuration with ``prompts`` instead of a prompt."""
    config = document(*top.pop("stages", ("txt2img",)), **{"prompts": list(prompts), **top})
    if "prompt" not in top:
        del config["prompt"]
    return config


def opened(run: Path) -> RunOpened:
    """The first event of a run."""
    event = next(iter(iterate(run)))
    assert isinstance(event, RunOpened)
    return event


def ran(folder: Path, config: dict[str, Any], backend: Any = None) -> RunOpened:
    """The first event of a whole run of ``config``."""
    result = controller(folder / "runs", backend or painter()).start(config).wait(30)
    assert result.outcome == "completed"
    return opened(folder / "runs" / result.run_id)


def error_of(config: dict[str, Any]) -> str:
    """The one line with which a configuration is refused."""
    with pytest.raises(ConfigurationError) as caught:
        build_stage_execution_plan(resolve_config(config, inputs=READER, runs=Path()))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_rows_give_prompts_and_seeds_by_image(tmp_path: Path) -> None:
    """image_index is row x images + k; a row's own seed counts on, others follow the index."""
    config = rows(
        "a cat", {"prompt": "a dog", "negative_prompt": "", "seed": 7}, {"seed": 50},
        images=2, prompt="a cow", negative_prompt="blurry", seed=100,
    )  # fmt: skip
    first = ran(tmp_path, config)
    assert first.seeds == (100, 101, 7, 8, 50, 51)
    pairs = [("a cat", "blurry"), ("a dog", ""), ("a cow", "blurry")]
    expected = [ImagePrompt(prompt=one, negative_prompt=two) for one, two in pairs for _ in "12"]
    assert first.prompts == tuple(expected)
    assert first.plan["prompts"] == "per_image"
    assert (first.plan["total_images"], first.config["prompts"]) == (6, config["prompts"])


def test_prompts_that_are_those_of_the_top_level_are_left_out(tmp_path: Path) -> None:
    """A run without prompts of its own is recorded as before; one with seeds alone has no list."""
    plain = ran(tmp_path / "plain", document(images=2))
    assert "prompts" not in plain.plan
    seeds = ran(tmp_path / "seeds", rows({"seed": 9}, {"seed": 3}, prompt="a cow"))
    assert (seeds.seeds, seeds.plan["prompts"]) == ((9, 3), "per_image")
    for event in (plain, seeds):
        assert isinstance(event.prompts, tuple) is False


@pytest.mark.parametrize(
    ("config", "spans"),
    [
        (rows(*"abc", images=3), [3, 3, 3]),
        (rows(*"aaaab"), [4, 1]),
        (rows({"prompt": "a", "seed": 5}, {"prompt": "a", "seed": 6}, {"prompt": "a", "seed": 9}),
         [2, 1]),
        (rows(*"abcdefg"), [1] * 7),
        (rows("a", images=10), [4, 4, 2]),
        (rows({"prompt": "a", "negative_prompt": "x"}, "a"), [1, 1]),
    ],
)  # fmt: skip
def test_a_batch_ends_at_another_prompt_and_at_a_gap_in_the_seeds(
    tmp_path: Path, config: dict[str, Any], spans: list[int]
) -> None:
    """Every image of a request has its prompt and the next seed; its span is known from any."""
    config["txt2img"]["batch_size"] = 4
    backend = painter()
    first = ran(tmp_path, config, backend)
    assert [request.count for request in backend.requests] == spans
    prompts = first.prompts if isinstance(first.prompts, tuple) else ()
    for request in backend.requests:
        for place in range(request.image_index, request.image_index + request.count):
            assert prompts[place].prompt == getattr(request.config, "prompt", None)
            assert first.seeds[place] == request.seed + place - request.image_index
    plan, breaks = StageExecutionPlan.from_document(first.plan), request_breaks(first)
    for span in request_spans(plan.stages[0], plan, breaks):
        assert all(span_of(plan.stages[0], index, plan, breaks) == span for index in span)


@given(
    listed=st.lists(st.tuples(st.sampled_from("ab"), st.none() | st.integers(0, 3)), min_size=1),
    images=st.integers(1, 3),
    batch=st.integers(1, 4),
)
def test_requests_are_as_large_as_they_may_be(
    listed: list[tuple[str, int | None]], images: int, batch: int
) -> None:
    """They cover each image once, and end only at a full batch, another prompt, a gap, the end."""
    config = rows(*({"prompt": one, "seed": seed} for one, seed in listed), images=images)
    config["txt2img"]["batch_size"] = batch
    ready = draw_prompts(check_config(parse_document(config)))
    plan, drawn = build_stage_execution_plan(ready), ready.drawn_prompts
    assert drawn is not None
    first = msgspec.structs.replace(
        run_opened("run"), plan=json_values(plan), seeds=drawn.seeds, prompts=drawn.prompts
    )
    keys = list(zip(drawn.prompts, drawn.seeds, strict=True))
    goes_on = [
        one[0] == other[0] and one[1] + 1 == other[1] for one, other in itertools.pairwise(keys)
    ]
    spans = list(request_spans(plan.stages[0], plan, request_breaks(first)))
    assert [index for span in spans for index in span] == list(range(plan.total_images))
    for span in spans:
        assert all(goes_on[index] for index in span[:-1])
        is_full = len(span) == batch
        assert is_full or span.stop == plan.total_images or not goes_on[span[-1]]


def test_a_row_s_seed_of_minus_one_is_drawn_once(tmp_path: Path) -> None:
    """Its images have that seed, + 1, ...; the plan, which draws none, needs none either."""
    config = rows("a", {"prompt": "b", "seed": -1}, images=3)
    assert build_stage_execution_plan(config).total_images == 6
    runs = [ran(tmp_path / name, config).seeds for name in ("one", "other")]
    for seeds in runs:
        assert seeds[:3] == (100, 101, 102)
        assert [seed - seeds[3] for seed in seeds[3:]] == [0, 1, 2]
        assert 0 <= seeds[3] < 2**31
    assert runs[0] != runs[1]


def test_combinations_are_rows_for_inputs(tmp_path: Path) -> None:
    """With ``"all"`` there must be as many as inputs; a plain prompt is that of each input."""
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    config = document("img2img", prompt="{a|b}", dynamic_prompts="all", images=2)
    config["input_image"] = f"{tmp_path}/*.png"
    first = ran(tmp_path, config)
    assert isinstance(first.prompts, tuple)
    assert [one.prompt for one in first.prompts] == [*"aabb"]
    plain = ran(tmp_path, {**config, "prompt": "c"})
    assert len(plain.seeds) == 4
    assert "it gives 3, and there are 2" in error_of({**config, "prompt": "{a|b|c}"})
    each = ran(tmp_path, {**config, "prompt": "{a|b|c|d|e}", "dynamic_prompts": True})
    assert isinstance(each.prompts, tuple)
    assert len({one.prompt for one in each.prompts}) > 1


def test_prompts_that_no_stage_takes_are_refused(tmp_path: Path) -> None:
    """Upscaling alone has no prompt."""
    (tmp_path / "in.png").write_bytes(png(1))
    config = rows("a", stages=("upscale",), input_image=str(tmp_path / "in.png"))
    assert "prompts has no effect: upscale takes no prompt" in error_of(config)


def test_the_digest_holds_the_image_s_prompt(tmp_path: Path) -> None:
    """A row gives the request that a run with that prompt and seed alone gives."""
    stages = ("txt2img", "img2img", "upscale", "adetailer")
    together, alone = painter(), painter()
    config = rows({"prompt": "a", "seed": 5}, {"prompt": "b", "seed": 5}, stages=stages)
    ran(tmp_path / "together", config, together)
    for prompt in "ab":
        ran(tmp_path / prompt, document(*stages, prompt=prompt, seed=5), alone)
    digests = {one.request_sha256 for one in together.requests if one.image_index == 0}
    assert digests <= {one.request_sha256 for one in alone.requests}
    assert len({one.request_sha256 for one in together.requests[:2]}) == 2


def test_stages_take_the_image_s_prompt_unless_they_have_their_own(tmp_path: Path) -> None:
    """adetailer inherits through img2img; an own prompt, a hires prompt and an own seed stay."""
    config = rows("a", "b", stages=("txt2img", "img2img", "adetailer"), negative_prompt="n")
    config["txt2img"]["hires"] = {"scale": 2, "denoise": 0.4, "prompt": "sharp"}
    config["img2img"] |= {"negative_prompt": "own", "seed": 900}
    backend = painter()
    ran(tmp_path, config, backend)
    found = [(one.stage_type, one.config.prompt, one.config.negative_prompt, one.seed)  # type: ignore[attr-defined]  # they have one
             for one in backend.requests]  # fmt: skip
    assert found == [
        ("txt2img", "a", "n", 100), ("txt2img", "b", "n", 101),
        ("img2img", "a", "own", 900), ("img2img", "b", "own", 901),
        ("adetailer", "a", "own", 900), ("adetailer", "b", "own", 901),
    ]  # fmt: skip
    assert backend.requests[0].config.hires.prompt == "sharp"  # type: ignore[attr-defined]  # they have one


def test_a_row_belongs_to_each_input(tmp_path: Path) -> None:
    """img2img over a folder: row i, with its seed, is that of photo i, for all its images."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        (photos / f"{number}.png").write_bytes(png(number))
    config = rows("a", {"prompt": "b", "seed": 7}, "c", stages=("img2img",), images=2)
    config["input_image"] = str(photos)
    backend = painter()
    first = ran(tmp_path, config, backend)
    asked_for = [(one.config.prompt, one.seed) for one in backend.requests]  # type: ignore[attr-defined]  # they have one
    assert asked_for == [("a", 100), ("a", 101), ("b", 7), ("b", 8), ("c", 104), ("c", 105)]
    names = sorted(path.name for path in (tmp_path / "runs" / first.run_id).rglob("images/*/*"))
    assert names[2:4] == ["00002-7-1.png", "00003-8-1.png"]
    for wrong in (["a"], ["a"] * 4):
        message = error_of({**config, "prompts": wrong})
        assert "one row for each input" in message, message


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "a, b # c\n\n# no\nd\n"),
        ("p.txt", "\ufeffa, b # c\r\n   \r\nd"),
        ("p.csv", 'negative_prompt,prompt\n,"a, b # c"\n,d\n'),
        ("p.csv", 'prompt,seed\r\n"a, b # c",\r\n\r\nd\r\n'),
        ("p.tsv", "prompt\tseed\na, b # c\t\nd\n"),
        ("p.jsonl", '{"prompt": "a, b # c"}\n\n{"prompt": "d", "seed": null}\n'),
    ],
)
def test_files_hold_the_same_rows_in_every_form(tmp_path: Path, name: str, text: str) -> None:
    """Each kind of file, with and without a byte order mark, gives two prompts."""
    (tmp_path / name).write_bytes(text.encode())
    config = {**rows(), "prompts": str(tmp_path / name)}
    first = ran(tmp_path, config)
    assert isinstance(first.prompts, tuple)
    assert [one.prompt for one in first.prompts] == ["a, b # c", "d"]
    assert first.seeds == (100, 101)
    assert isinstance(first.sources, tuple)
    assert [source.path for source in first.sources] == [str(tmp_path / name)]


HOSTILE: list[tuple[str, bytes | Callable[[Path], object], str]] = [
    ("p.txt", b"a\n" * 8_000_000, "more than 1000000 prompts"),
    ("p.txt", b"a" * ((1 << 24) - 1), "record"),
    ("p.txt", b"a\nb\0c\n", "line 2 holds a NUL byte"),
    ("p.csv", b"\x89PNG\r\n\x1a\n\xff\xfe", "line 1 is not UTF-8"),
    ("p.txt", "a".encode("utf-16"), "NUL"),
    ("p.txt", b"", "holds no prompt"),
    ("p.csv", b"prompt\n", "holds no prompt"),
    ("p.csv", b"text\na\n", "names no column with 'text'"),
    ("p.csv", b"prompt,prompt\na,b\n", "names one column twice"),
    ("p.csv", b"prompt\na,b\n", "line 2 has more cells"),
    ("p.csv", b'prompt\n"a\n', "line 2 cannot be read"),
    ("p.csv", b"prompt\n" + b"a" * 200_000, "line 2 cannot be read"),
    ("p.csv", b"prompt,seed\na,x\n", "line 2: seed = 'x'"),
    ("p.tsv", b"prompt\tseed\na\t99999999999999999999\n", "line 2: seed"),
    ("p.jsonl", b'{"prompt": 5}\n', "line 1 is not an object"),
    ("p.jsonl", b'{"prompt": "a"}\n{"promt": "a"}\n', "line 2 is not an object"),
    ("p.jsonl", b"[" * 100_000, "line 1 is not an object"),
    ("p.xlsx", b"a", "its name must end in .txt, .csv, .tsv, .jsonl"),
    ("p.txt", lambda path: path.mkdir(), "there is no such file"),
    ("p.txt", lambda _path: None, "there is no such file"),
]


@pytest.mark.parametrize(("name", "content", "message"), HOSTILE)
def test_a_hostile_file_is_one_clear_line(
    tmp_path: Path, name: str, content: bytes | Callable[[Path], object], message: str
) -> None:
    """Nothing is made, and the line names the file or the key."""
    path = tmp_path / name
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)
    told = error_of({**rows(), "prompts": str(path)})
    assert message in told
    assert "prompts" in told
    assert len(told) < 600


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (rows("a", prompt="b"), "is not used, because every row of prompts has its own"),
        (rows("a", {"seed": 4}), "has no prompt in row 2"),
        (
            rows({"prompt": "a", "seed": 2**32 - 1}, images=2),
            "has a seed above 4294967294 in row 1",
        ),
        ({**rows(), "prompts": 5}, "prompts = 5 must be text or a list"),
        ({**rows(prompt="p"), "prompts": []}, "prompts must have an entry"),
        (rows({"promt": "a"}, prompt="p"), "did you mean prompts.0.prompt?"),
        (rows({"prompt": "a", "seed": "x"}), "prompts.0.seed = 'x' must be"),
        (rows(*"ab", images=100_000), ""),
        (rows("a", dynamic_prompts="al"), "dynamic_prompts = 'al' must be true or false or 'all'"),
    ],
)
def test_a_wrong_row_is_refused(config: dict[str, Any], message: str) -> None:
    """The one line names the key, the row and what is wrong."""
    if not message:
        build_stage_execution_plan(resolve_config(config, inputs=READER, runs=Path()))
        return
    assert message in error_of(config)


def test_a_pure_plan_needs_no_file_but_that_of_prompts() -> None:
    """A list makes a plan without any I/O; a path that was not read is refused by name."""
    assert build_stage_execution_plan(rows(*"ab", images=3)).total_images == 6
    with pytest.raises(InvalidStagePlanError, match="is a file that was not read"):
        build_stage_execution_plan({**rows(), "prompts": "p.txt"})


def test_an_upper_layer_s_prompts_replace_a_lower_one_s_prompt(tmp_path: Path) -> None:
    """A configuration that extends another may have prompts where that has a prompt."""
    (tmp_path / "base.json").write_text(json.dumps(document()), encoding="utf-8")
    upper = tmp_path / "upper.toml"
    upper.write_text('extends = "base.json"\nprompts = ["a", "b"]\n', encoding="utf-8")
    loaded = load_config(upper, inputs=READER, runs=tmp_path)
    assert (loaded.prompt, build_stage_execution_plan(loaded).total_images) == (None, 2)
    again = load_config(upper, inputs=READER, runs=tmp_path, overrides=["prompt=c"])
    assert (again.prompt, again.prompts) == ("c", None)


def test_a_resume_uses_only_what_is_recorded(tmp_path: Path) -> None:
    """A prompt file that changes or goes after the start changes nothing."""
    path = tmp_path / "p.txt"
    path.write_text("a\na\nb\nb\nb\nc\nc\n", encoding="utf-8")
    config = {**rows(stages=("txt2img", "img2img")), "prompts": str(path)}
    config["txt2img"]["batch_size"] = 4
    whole = made(tmp_path / "whole", config)
    run = made(tmp_path / "runs", config)
    cut_before(run, type(list(iterate(run))[8]), 2)
    path.unlink()
    backend = painter()
    result = resumed(run, backend)
    assert result.outcome == "completed"
    assert asked(backend)
    names = {name: data for name, data in files(run).items() if name.startswith("images/")}
    assert sorted(names) == sorted(one for one in files(whole) if one.startswith("images/"))
    assert fold(iterate(run)).seeds == fold(iterate(whole)).seeds
