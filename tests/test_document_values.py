"""Values as people write them: text keys, empty names, whole floats, keys that are set twice."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stagewright.statemachine import (
    ConfigurationError,
    InvalidStagePlanError,
    build_stage_execution_plan,
)
from stagewright.statemachine.config.document import apply_overrides, parse_document
from stagewright.statemachine.config.formats import read_document
from stagewright.statemachine.config.legacy import RunDocument
from stagewright.statemachine.config.schema import RunTables
from stagewright.statemachine.config.validation import (
    check_document,
    hint_at,
    is_table,
    is_text,
)

from .support import document
from .test_configuration_errors import WRONG
from .test_legacy_keys import complete, put
from .test_plan import settings_of
from .test_plan_values import full, refused

PASS = "adetailer.passes.0"
FREE = ("prompt", "negative_prompt")


def twice_in(path: Path, text: str) -> list[str | None]:
    """The keys that a file is refused for, in the words for a key that is set twice."""
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as refused:
        read_document(path)
    for one in refused.value.errors:
        assert one.message.startswith(f"{path}: {one.key} is set twice")
    return [one.key for one in refused.value.errors]


@pytest.mark.parametrize(
    ("name", "text", "keys"),
    [
        ("a.json", '{"prompt": "a", "seed": 1, "prompt": "a"}', ["prompt"]),
        ("a.json", '{"txt2img": {"hires": {"scale": 1, "scale": 2}}}', ["txt2img.hires.scale"]),
        ("a.json", '{"a": {"b": 1, "b": 2}, "c": [0, {"d": 1, "d": 1}]}', ["a.b", "c.1.d"]),
        ("a.json", '{"a": 1, "a": 1, "a": 1}', ["a"]),
        ("a.json", '{"a": {"b": 1}, "a": {"c": 1}}', ["a"]),
        ("a.yaml", "prompt: a\nprompt: b\n", ["prompt"]),
        ("a.yaml", 'prompt: a\n"prompt": b\n', ["prompt"]),
        ("a.yaml", "txt2img: {hires: {scale: 1, scale: 2}}", ["txt2img.hires.scale"]),
        ("a.yaml", "a: {b: 1, b: 2}\nc:\n- 0\n- d: 1\n  d: 1\n", ["a.b", "c.1.d"]),
        ("a.yaml", "a: &x {b: 1, b: 2}\nc: *x\nd: {<<: *x}\n", ["a.b"]),
        ("a.yaml", "a:\n  b: 1\na:\n  c: 1\n", ["a"]),
        ("a.toml", "prompt = 'a'\nseed = 1\nprompt = 'a'\n", ["prompt"]),
        ("a.toml", "[txt2img.hires]\nscale = 1\n\nscale = 2", ["txt2img.hires.scale"]),
        ("a.toml", "[txt2img]\nsteps = 1\n[txt2img]\n", ["txt2img"]),
        ("a.toml", "txt2img = {steps = 1, steps = 2}", ["txt2img.steps"]),
        ("a.toml", "txt2img.steps = 1\ntxt2img.steps = 2\n", ["txt2img.steps"]),
        ("a.toml", "[txt2img]\n'steps' = 1\n\"steps\" = 2\n", ["txt2img.steps"]),
        ("a.toml", "[[a.b]]\nc = 1\n[[a.b]]\nd = 1\nd = 2\n", ["a.b.1.d"]),
        ("a.toml", 'prompt = "a"\nprompt = """\nb\nc"""\n[txt2img]\n', ["prompt"]),
    ],
)
def test_a_key_that_is_set_twice_is_refused_by_name(
    tmp_path: Path, name: str, text: str, keys: list[str]
) -> None:
    """With its path, in every format; which of the values was meant is not known."""
    assert twice_in(tmp_path / name, text) == keys


def test_a_merged_key_may_be_set_again(tmp_path: Path) -> None:
    """That is what merges of YAML are for; and equal keys of two tables are two keys."""
    path = tmp_path / "a.yaml"
    path.write_text("a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}\ne: {b: 1}\n", encoding="utf-8")
    assert read_document(path)["d"] == {"b": 3, "c": 2}


TEXTS = (
    "6e93741234", "0123", "1e9", "42", "4.50", "yes", "No", "on", "true", "2024-01-01", "0x1f",
    "1_000", "1:30", ".5", "-3", "+1", "inf", ".nan", "2024-01-01T10:00:00Z", "film",
)  # fmt: skip
TEXT_KEYS = ("name", "prompt", "txt2img.model", "txt2img.hires.upscaler", f"{PASS}.classes")


def value_at(document: Any, key: str) -> Any:
    for part in key.split("."):
        document = document[int(part) if part.isdigit() else part]
    return document


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_key_holds_the_text_as_it_is_written(tmp_path: Path, text: str) -> None:
    """In YAML and with --set: a model of digits is no number, and a prompt no date."""
    path = tmp_path / "a.yaml"
    path.write_text(
        f"name: {text}\nprompt: {text}\ntxt2img: {{model: {text}, hires: {{upscaler: {text}}}, "
        f"styles: [{text}, a]}}\nadetailer: {{passes: [{{classes: {text}}}]}}\n"
        f"upscale: &up\n  upscaler: {text}\n",
        encoding="utf-8",
    )
    read = read_document(path)
    assert [value_at(read, key) for key in TEXT_KEYS] == [text] * len(TEXT_KEYS)
    assert read["txt2img"]["styles"] == [text, "a"]
    for key in TEXT_KEYS:
        changed = apply_overrides(complete(), [f"{key}={text}"])
        assert value_at(changed, key) == text
    # TOML and JSON say of which type a value is.
    (tmp_path / "a.toml").write_text("prompt = 42", encoding="utf-8")
    with pytest.raises(InvalidStagePlanError, match="prompt = 42 must be text, not a number"):
        parse_document(read_document(tmp_path / "a.toml"))


def test_what_is_no_text_key_keeps_its_type_in_yaml(tmp_path: Path) -> None:
    """And so does text in quotes; null is not set; free keys hold what YAML makes of them."""
    path = tmp_path / "a.yaml"
    path.write_text(
        "prompt: '42'\nnegative_prompt: ~\nname:\nseed: 1e3\nimages: 2\n"
        "metadata: {a: 1, b: yes, c: 1e3}\n"
        "txt2img: &base {model: 0123, steps: 7, denoise: 1e-1, tiling: no, vae: null}\n"
        "img2img: {<<: *base, model: 007, denoise: 1e-1}\n",
        encoding="utf-8",
    )
    assert read_document(path) == {
        "prompt": "42", "negative_prompt": None, "name": None, "seed": 1000.0, "images": 2,
        "metadata": {"a": 1, "b": True, "c": "1e3"},
        "txt2img": {"model": "0123", "steps": 7, "denoise": "1e-1", "tiling": False, "vae": None},
        "img2img": {"model": "007", "steps": 7, "denoise": 0.1, "tiling": False, "vae": None},
    }  # fmt: skip


def names_of(kind: Any, path: str = "") -> list[str]:
    """The keys that hold an optional name, at any depth of a configuration."""
    found = []
    for key in kind.__struct_encode_fields__:
        hint = hint_at(kind, key)
        entry = hint_at(hint, "0")
        for struct in get_args(hint) or (hint,):
            if is_table(entry or struct):
                found += names_of(entry or struct, f"{path}{key}.{'0.' if entry else ''}")
        if hint is not None and entry is None and is_text(hint) and key not in FREE:
            found.append(f"{path}{key}")
    return found


NAMES = [key for key in names_of(RunTables) if not key.startswith(("run.", "sweep."))]
REQUIRED = {
    "txt2img.model", "txt2img.sampler", "txt2img.refiner.model", "img2img.refiner.model",
    "upscale.upscaler", f"{PASS}.model",
}  # fmt: skip


def test_the_names_of_this_file_are_of_every_table() -> None:
    """Among them those of passes, refiners, and the server's address."""
    expected = {"txt2img.vae", "txt2img.hires.model", "upscale.upscaler_2", "img2img.mask",
                "server.url", "server.ca_bundle", f"{PASS}.checkpoint", "name"}  # fmt: skip
    assert expected | REQUIRED <= set(NAMES)


@pytest.mark.parametrize("key", NAMES)
def test_an_empty_name_is_not_set(key: str) -> None:
    """As if the key were not there: for an optional name the plan is the same."""
    config = complete() | {"server": {}}
    config["img2img"] |= {"model": "m", "sampler": "s"}
    empty = put(config, key, "")
    if key in REQUIRED:
        with pytest.raises(InvalidStagePlanError) as refused:
            build_stage_execution_plan(empty)
        assert [one.key for one in refused.value.errors] == [key]
        return
    without = put(config, key, None)
    assert build_stage_execution_plan(empty) == build_stage_execution_plan(without)
    assert parse_document(empty).document() == parse_document(without).document()


@pytest.mark.parametrize("key", ["txt2img.styles", "img2img.styles", "txt2img.modules"])
def test_an_empty_name_in_a_list_is_left_out(key: str) -> None:
    """The other names stay, in their order; without any, the list is not set."""
    config = complete() | {"server": {}}
    config["img2img"] |= {"model": "m", "sampler": "s"}
    config["txt2img"].pop("vae", None)
    names = build_stage_execution_plan(put(config, key, ["", "b", "", "a"]))
    assert names == build_stage_execution_plan(put(config, key, ["b", "a"]))
    none = build_stage_execution_plan(put(config, key, [""]))
    assert none == build_stage_execution_plan(put(config, key, None))


def test_an_empty_prompt_of_img2img_is_not_inherited() -> None:
    """It can be requested beside a prompt of the other stages."""
    plan = build_stage_execution_plan(
        apply_overrides(document("txt2img", "img2img"), ["img2img.prompt="])
    )
    assert [settings_of(plan, place)["prompt"] for place in (0, 1)] == ["a lighthouse", ""]


FINITE = (
    "txt2img.cfg_scale", "txt2img.refiner.switch_at", "txt2img.hires.scale",
    "txt2img.hires.denoise", "img2img.cfg_scale", "img2img.denoise", "upscale.factor",
    "upscale.codeformer_weight", f"{PASS}.confidence", f"{PASS}.denoise", f"{PASS}.cfg_scale",
    f"{PASS}.noise_multiplier", "server.stall_timeout_s",
)  # fmt: skip


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("key", FINITE)
def test_a_number_that_is_not_finite_is_refused(key: str, value: str) -> None:
    """NaN and the infinities lie within no bounds, and would be null in JSON."""
    error = refused(full(), f"{key}={value}")
    assert str(error) == f"{key} = {value} must be a finite number"
    assert error.key == key


def test_a_number_in_the_metadata_must_be_finite_too() -> None:
    """The log would record null in its place."""
    error = refused(full(), "metadata.weights=[1.5, nan]")
    assert str(error) == "metadata.weights.1 = nan must be a finite number"
    assert error.key == "metadata.weights.1"


NOT_OF_JSON = ("metadata.deep", "img2img.denoise")
"""A number of more than 64 bits, and a value that is missing: no matters of the schema."""
WHOLE = (
    "seed", "images", "txt2img.steps", "txt2img.width", "txt2img.hires.steps", "img2img.seed",
    "server.retries", f"{PASS}.mask_k", f"{PASS}.dilate_erode",
)  # fmt: skip


@pytest.mark.parametrize("key", WHOLE)
def test_a_whole_float_is_a_whole_number(key: str) -> None:
    """The plan is that of the whole number, down to its bytes; other floats are refused."""
    config = put(complete() | {"server": {}}, key, 8)
    plan = build_stage_execution_plan(config)
    for value in (8.0, 0.8e1):
        same = build_stage_execution_plan(put(config, key, value))
        assert repr(same) == repr(plan)
    for value in (8.5, 1e300):
        with pytest.raises(InvalidStagePlanError) as refused:
            build_stage_execution_plan(put(config, key, value))
        assert [one.key for one in refused.value.errors] == [key]


@cache
def schema() -> Any:
    """What `stagewright schema` prints."""
    command = [sys.executable, "-m", "stagewright", "schema"]
    done = subprocess.run(command, capture_output=True, check=True)
    return jsonschema.Draft202012Validator(json.loads(done.stdout))


def with_tables() -> dict[str, Any]:
    return complete() | {"metadata": {}, "run": {}, "server": {}}


@pytest.mark.parametrize(
    "key", [key for key, value in WRONG.items() if value == value and key not in NOT_OF_JSON]
)
def test_the_schema_refuses_what_is_refused(key: str) -> None:
    """An editor with the schema underlines the same values."""
    assert schema().is_valid(with_tables())
    wrong = put(with_tables(), key, WRONG[key])
    assert check_document(wrong, RunDocument).errors
    assert not schema().is_valid(wrong)


def test_the_schema_knows_sweeps() -> None:
    """An axis has a list or a text, and no unknown key."""
    axes = [{"key": "seed", "values": "1..3"}, {"keys": ["seed"], "values": [[1], [2]]}]
    assert schema().is_valid({"sweep": {"random": 1, "seed": 2, "axes": axes}})
    for wrong in ({"key": "seed", "values": 1}, {"kye": "seed", "values": [1]}):
        assert not schema().is_valid({"sweep": {"axes": [wrong]}})


VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [0, 1, 8, 64, 0.5, 2.0, 1e9, -1, "", "x", True, None, [], {}, "first"]
)


@given(st.sampled_from([*WRONG, *NAMES, *WHOLE, "cfg_scale", "steps", "hires_denoise"]), VALUES)
def test_what_the_schema_accepts_is_accepted(key: str, value: Any) -> None:
    """Whole floats, empty names and nulls among it."""
    config = put(with_tables(), key, "in its place")
    *path, name = key.split(".")
    (value_at(config, ".".join(path)) if path else config)[name] = value
    if schema().is_valid(config):
        assert check_document(config, RunDocument).errors == []
