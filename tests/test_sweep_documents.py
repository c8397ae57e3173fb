"""Configurations with a sweep: what they vary, how a variant is made, and what is refused."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stagewright.adapters import EmbeddedBackend, PillowInputReader
from stagewright.statemachine import (
    PipelineController,
    RunConfig,
    StageExecutionPlan,
    build_stage_execution_plan,
)
from stagewright.statemachine.config.inputs import (
    ConfigDocument,
    document_of,
    load_config,
    load_document,
)
from stagewright.statemachine.config.schema import AxisTable, SweepTable
from stagewright.statemachine.config.sweeps import sweep_of
from stagewright.statemachine.errors import ConfigurationError
from stagewright.statemachine.variants.sweep import Sweep

from .support import TXT2IMG, document, png

READER = PillowInputReader()

TOML = """
prompt = "a lighthouse"
[txt2img]
sampler = "Euler a"
steps = 3
cfg_scale = 7.0
width = 64
height = 64
"""
"""A configuration without a model."""


def swept(*axes: dict[str, Any], **top: Any) -> dict[str, Any]:
    """A small configuration with these axes."""
    return {**document(), "sweep": {"axes": list(axes)}, **top}


def axis(key: str, *values: Any) -> dict[str, Any]:
    """The axis of one key."""
    return {"key": key, "values": list(values)}


def sweep_in(config: Any, *vary: str, zipped: bool = False) -> Sweep:
    """The sweep of a configuration in any form."""
    found = sweep_of(document_of(config), vary, zip=zipped)
    assert found is not None
    return found


def variants(config: Any, *vary: str, zipped: bool = False) -> list[dict[str, Any]]:
    """The values of all variants."""
    return [dict(one) for one in sweep_in(config, *vary, zipped=zipped).variants()]


def plans(loaded: ConfigDocument, *vary: str) -> list[StageExecutionPlan]:
    """The plan of each variant."""
    sweep = sweep_of(loaded, vary)
    assert sweep is not None
    parsed = (loaded.with_values(values, sweep.axes).parse() for values in sweep.variants())
    return [build_stage_execution_plan(one) for one in parsed]


def refusals(config: Any, *vary: str, zipped: bool = False) -> list[str]:
    """The lines with which a sweep is refused."""
    with pytest.raises(ConfigurationError) as caught:
        sweep_of(
            config if isinstance(config, ConfigDocument) else document_of(config), vary, zip=zipped
        )
    return str(caught.value).splitlines()


def write(folder: Path, text: str, name: str = "base.toml") -> Path:
    """A file with this text."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_sweep_may_supply_what_the_configuration_lacks(tmp_path: Path) -> None:
    axes = '[[sweep.axes]]\nkey = "txt2img.model"\nvalues = ["a", "b"]\n'
    loaded = load_document(write(tmp_path, TOML + axes))
    configs: list[Any] = [one.stages[0].config for one in plans(loaded)]
    assert [one.model for one in configs] == ["a", "b"]
    with pytest.raises(ConfigurationError, match=r"base\.toml: txt2img\.model is missing"):
        loaded.parse()


def test_the_document_of_a_variant_has_its_values_and_no_sweep() -> None:
    loaded = document_of(swept(axis("txt2img.steps", 4, 5)))
    variant = loaded.with_values({"txt2img.steps": 4})
    assert variant.document == document(txt2img={**TXT2IMG, "steps": 4})
    assert variant.parse().as_given == variant.document
    assert loaded.document == swept(axis("txt2img.steps", 4, 5))


def test_keys_of_an_axis_move_together() -> None:
    pair = {"keys": ["txt2img.model", "txt2img.vae"], "values": [["a", "x"], ["b", "y"]]}
    assert variants(swept(pair)) == [
        {"txt2img.model": "a", "txt2img.vae": "x"},
        {"txt2img.model": "b", "txt2img.vae": "y"},
    ]


def test_values_may_be_one_text_with_a_range() -> None:
    config = swept({"key": "txt2img.cfg_scale", "values": "4..5:0.5,8"})
    assert [one["txt2img.cfg_scale"] for one in variants(config)] == [4.0, 4.5, 5.0, 8]


def test_each_value_of_vary_is_read_as_by_set() -> None:
    values = variants(document(), 'txt2img.sampler=0123, "a, b", yes', "txt2img.steps=1,2.0")
    assert [one["txt2img.sampler"] for one in values[::2]] == ["0123", "a, b", "yes"]
    assert [one["txt2img.steps"] for one in values[:2]] == [1, 2.0]


def test_a_value_may_be_a_table_or_a_list() -> None:
    refiner = '[{model = "r", switch_at = 0.5}, {model = "s", switch_at = 0.8}]'
    loaded = document_of(document())
    found = plans(loaded, f"txt2img.refiner={refiner}", 'txt2img.styles=[["x"], ["y", "z"]]')
    configs: list[Any] = [one.stages[0].config for one in found]
    assert [(one.refiner.model, len(one.styles)) for one in configs] == [
        ("r", 1), ("r", 2), ("s", 1), ("s", 2),
    ]  # fmt: skip


def test_vary_replaces_the_axis_of_its_key_in_its_place() -> None:
    config = swept(axis("txt2img.steps", 1, 2), axis("seed", 5, 6))
    assert variants(config, "steps=3") == [{"steps": 3, "seed": 5}, {"steps": 3, "seed": 6}]


def test_vary_cannot_replace_an_axis_of_several_keys() -> None:
    pair = {"keys": ["txt2img.model", "txt2img.vae"], "values": [["a", "x"], ["b", "y"]]}
    (line,) = refusals(swept(pair), "txt2img.vae=z")
    assert line == (
        "--vary txt2img.vae cannot replace sweep.axes.0, "
        "which varies txt2img.model and txt2img.vae together"
    )


def test_zip_moves_all_vary_together_beside_the_axes_of_the_configuration() -> None:
    config = swept(axis("seed", 5, 6))
    found = variants(config, "txt2img.steps=1,2", "txt2img.cfg_scale=3,4", zipped=True)
    assert [tuple(one.values()) for one in found] == [(5, 1, 3), (5, 2, 4), (6, 1, 3), (6, 2, 4)]
    assert refusals(config, "txt2img.steps=1..3", "txt2img.cfg_scale=3,4", zipped=True) == [
        "--zip needs as many values for each key: txt2img.steps has 3, txt2img.cfg_scale has 2"
    ]
    assert "add it, or leave --zip out" in refusals(config, zipped=True)[0]


@pytest.mark.parametrize(
    ("key", "flat"), [("steps", 5), ("txt2img.steps", 5), ("txt2img", {**TXT2IMG, "steps": 5})]
)
def test_flat_nested_and_whole_tables_are_set_as_by_set(key: str, flat: Any) -> None:
    config = {**document(), "cfg_scale": 9}
    config["txt2img"].pop("cfg_scale")
    variant = document_of(config).with_values({key: flat}).parse()
    assert variant.txt2img is not None
    assert variant.txt2img.steps == 5
    assert variant.conflicts == ()


def test_passes_that_do_not_exist_are_named() -> None:
    loaded = document_of(document("txt2img", "adetailer"))
    sweep = sweep_of(loaded, ["adetailer.passes.2.denoise=0.5"])
    assert sweep is not None
    with pytest.raises(ConfigurationError) as caught:
        loaded.with_values(next(sweep.variants()), sweep.axes)
    assert str(caught.value) == (
        "--vary: adetailer.passes.2.denoise cannot be set: adetailer.passes has 1 entries, "
        "counted from 0"
    )


def test_every_error_of_a_sweep_is_reported_at_once(tmp_path: Path) -> None:
    text = TOML + (
        "[[sweep.axes]]\n"
        'key = "txt2img.steps"\n'
        'values = [1, -3, "x", 1]\n'
        "[[sweep.axes]]\n"
        'key = "txt2img.modle"\n'
        'values = ["a", "b"]\n'
        "[[sweep.axes]]\n"
        'keys = ["txt2img.model", "txt2img.vae"]\n'
        'values = [["a"]]\n'
        "[[sweep.axes]]\n"
        'key = "seed"\n'
        'values = "1..2:0"\n'
        "[[sweep.axes]]\n"
        "values = [1]\n"
    )
    loaded = load_document(write(tmp_path, text), overrides=["images=2"])
    vary = ["txt2img.width=7,64,9", "images=1,2", "txt2img.cfg_scale=", "seeed=1"]
    file, pair = tmp_path / "base.toml", "txt2img.model, txt2img.vae"
    assert set(refusals(loaded, *vary)) == {
        f"{file}: sweep.axes.0.values.1: txt2img.steps = -3 must be at least 1, at most 100000",
        f"{file}: sweep.axes.0.values.2: txt2img.steps = 'x' must be a whole number, not text",
        f"{file}: sweep.axes.0.values.3 = 1 repeats a value of the axis",
        f"{file}: sweep.axes.1.key: unknown key txt2img.modle; did you mean txt2img.model?",
        f'{file}: sweep.axes.2.values.0 = ["a"] must be a list of 2 values, one for each of {pair}',
        f"{file}: sweep.axes.3.values has the range 1..2:0, whose step is 0",
        f"{file}: sweep.axes.4.key is missing: set it, or keys",
        "--vary: txt2img.width = 7 must be at least 8, at most 65536, a multiple of 8",
        "--vary: txt2img.width = 9 must be at least 8, at most 65536, a multiple of 8",
        "--vary images is set by --set as well",
        "--vary txt2img.cfg_scale has no values",
        "--vary: unknown key seeed; did you mean seed?",
    }


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            swept(axis("txt2img.steps", 1), axis("steps", 2)),
            "sweep.axes.1.key = 'steps' is varied twice: sweep.axes.0 varies txt2img.steps",
        ),
        (
            swept(axis("txt2img", TXT2IMG), axis("txt2img.steps", 2)),
            "sweep.axes.1.key = 'txt2img.steps' is varied twice: sweep.axes.0 varies txt2img",
        ),
        (swept(axis("sweep.random", 1)), "sweep.axes.0.key = 'sweep.random' cannot be varied"),
        (swept(axis("server.url", "http://x")), "sweep.axes.0.key = 'server.url' cannot be varied"),
        (swept(), "sweep.axes is missing: a sweep needs an axis, or --vary"),
        (
            {**document(), "sweep": {"axis": []}},
            "unknown key sweep.axis; did you mean sweep.axes?",
        ),
        (
            swept({"keys": ["seed"], "values": "1..3"}),
            "sweep.axes.0.values must be a list, of a list for each value of keys",
        ),
        (swept({"key": "seed", "values": 5}), "sweep.axes.0.values = 5 must be text or a list"),
    ],
)
def test_a_wrong_sweep_is_refused(config: dict[str, Any], message: str) -> None:
    assert "\n".join(refusals(config)) == message


def test_an_error_of_a_variant_names_where_its_value_is_varied(tmp_path: Path) -> None:
    text = TOML + (
        'model = "m"\n[[sweep.axes]]\nkey = "seed"\nvalues = [1, 4294967295]\n'
        '[[sweep.axes]]\nkey = "txt2img.width"\nvalues = [65536]\n'
    )
    loaded = load_document(write(tmp_path, text), overrides=["images=2"])
    sweep = sweep_of(loaded, ["txt2img.height=65536"])
    assert sweep is not None
    with pytest.raises(ConfigurationError) as caught:
        loaded.with_values(list(sweep.variants())[1], sweep.axes).parse()
    file = tmp_path / "base.toml"
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(
        f"{file}, with seed = 4294967295, txt2img.width = 65536, txt2img.height = 65536: "
        "txt2img makes images of 65536x65536"
    )
    assert lines[1].startswith(f"{file}: sweep.axes.0.values.1: seed = 4294967295 must be at most")


def test_an_error_beside_the_values_is_the_same_for_every_variant(tmp_path: Path) -> None:
    loaded = load_document(write(tmp_path, TOML + "stpes = 2\n"))
    sweep = sweep_of(loaded, ["seed=1,2"])
    assert sweep is not None
    file = tmp_path / "base.toml"
    found: set[tuple[str, ...]] = set()
    for values in sweep.variants():
        with pytest.raises(ConfigurationError) as caught:
            loaded.with_values(values, sweep.axes).parse()
        found.add(tuple(str(caught.value).splitlines()))
    (lines,) = found
    assert lines == (
        f"{file}: unknown key txt2img.stpes; did you mean txt2img.steps?",
        f"{file}: txt2img.model is missing; an enabled txt2img needs it",
    )


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_json_and_yaml_have_sweeps_too(tmp_path: Path, suffix: str) -> None:
    text = json.dumps(swept({"key": "seed", "values": "1..3"}, axis("txt2img.steps", 1, 2)))
    path = write(tmp_path, text, f"base.{suffix}")
    assert len(variants(path)) == 6


def test_sweeps_are_merged_from_profiles_extended_files_and_set(tmp_path: Path) -> None:
    write(tmp_path, TOML + '[sweep]\nseed = 3\n[[sweep.axes]]\nkey = "seed"\nvalues = [1, 2]\n')
    above = write(tmp_path, 'extends = "base.toml"\n[sweep]\nrandom = 1\n', "above.toml")
    loaded = load_document(
        above, overrides=["sweep.axes.0.values=[7, 8, 9]"], profile={"sweep": {"random": 9}}
    )
    sweep = sweep_of(loaded)
    assert sweep is not None
    assert (sweep.random, sweep.seed, sweep.axes[0].axis.values) == (1, 3, (7, 8, 9))


def test_paths_of_vary_are_relative_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "one.png").write_bytes(png(1))
    text = 'input_image = "x.png"\n[upscale]\nupscaler = "Lanczos"\nfactor = 2.0\n'
    axes = '[[sweep.axes]]\nkey = "input_image"\nvalues = ["one.png"]\n'
    loaded = load_document(write(there, text + axes))
    monkeypatch.chdir(here)

    def found(*vary: str) -> list[str]:
        sweep = sweep_of(loaded, vary)
        assert sweep is not None
        variant = loaded.with_values(next(sweep.variants()), sweep.axes)
        config = variant.find(variant.parse(), inputs=READER, runs=tmp_path)
        return [one.path for one in config.inputs]

    assert found() == [str(there / "one.png")]
    assert found("input_image=one.png") == [str(here / "one.png")]


def test_a_run_config_keeps_what_it_has_found_unless_that_is_varied(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        (tmp_path / name).write_bytes(png(1))
    text = 'input_image = "one.png"\n[upscale]\nupscaler = "Lanczos"\nfactor = 2.0\n'
    found = load_config(write(tmp_path, text), inputs=READER, runs=tmp_path)
    loaded = document_of(found)
    assert loaded.with_values({"upscale.factor": 3.0}).parse().inputs == found.inputs
    other = loaded.with_values({"input_image": str(tmp_path / "two.png")})
    inputs = other.find(other.parse(), inputs=READER, runs=tmp_path).inputs
    assert [Path(one.path).name for one in inputs] == ["two.png"]


def test_a_run_config_may_have_a_sweep() -> None:
    table = SweepTable(axes=(AxisTable(key="seed", values=(1, 2)),))
    config = RunConfig(prompt="x", sweep=table)
    assert variants(config) == [{"seed": 1}, {"seed": 2}]


def test_a_configuration_without_a_sweep_has_none() -> None:
    assert sweep_of(document_of(document())) is None


def test_one_run_of_a_sweep_is_refused_with_what_to_call(tmp_path: Path) -> None:
    controller = PipelineController(
        backend=EmbeddedBackend(), runs=tmp_path / "runs", inputs=READER
    )
    config = swept(axis("txt2img.model", "a", "b"))
    del config["txt2img"]["model"]
    given = RunConfig(sweep=SweepTable(axes=(AxisTable(key="seed", values=(1, 2)),)))
    for one in (config, write(tmp_path, json.dumps(config), "base.json"), given):
        for call in (controller.start, controller.validate):
            with pytest.raises(ConfigurationError, match="start it with start_group"):
                call(one)
    with pytest.raises(ConfigurationError, match="start_group"):
        build_stage_execution_plan(config)
    assert not (tmp_path / "runs").exists()


SCALARS: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, 1, -1, 2.5, 1e300, float("nan"), 2**70, "", "x", "1..3", "[1]", "[", "1..2:0"]
)
ANYTHING = st.recursive(
    SCALARS, lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(), part, max_size=2)
)
KEYS = st.sampled_from(
    ["txt2img.steps", "steps", "prompt", "prompts", "txt2img", "txt2img.styles.1", "metadata.a.b",
     "adetailer.passes.0.model", "sweep", "a", "", ".", "txt2img..steps", "seed.0", "0"]
)  # fmt: skip
AXES = st.fixed_dictionaries(
    {},
    optional={
        "key": KEYS | ANYTHING,
        "keys": st.lists(KEYS, max_size=2) | ANYTHING,
        "values": st.lists(ANYTHING, max_size=3) | ANYTHING,
    },
)


@given(st.lists(AXES, max_size=3) | ANYTHING, st.lists(st.text() | KEYS, max_size=2), st.booleans())
def test_any_sweep_is_used_or_refused(axes: Any, vary: list[str], zipped: bool) -> None:
    loaded = document_of({**document(), "sweep": {"axes": axes}})
    options = [*vary, *(f"{one}=1..2,x" for one in vary)]
    with suppress(ConfigurationError):
        sweep = sweep_of(loaded, options, zip=zipped)
        assert sweep is not None
        for values in sweep.variants():
            with suppress(ConfigurationError):
                loaded.with_values(values, sweep.axes).parse()
