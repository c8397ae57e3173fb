"""Reading configurations: formats, unknown keys, wrong types, overrides, hostile files."""

from __future__ import annotations

import copy
import json
import time
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters import PillowInputReader
from stagewright.statemachine import (
    ConfigurationError,
    FieldError,
    InvalidStagePlanError,
    RunConfig,
    build_stage_execution_plan,
    load_config,
)
from stagewright.statemachine.config.document import (
    apply_overrides,
    document_to_record,
    parse_document,
)
from stagewright.statemachine.config.formats import MAX_BYTES, read_document
from stagewright.statemachine.stages import (
    Txt2ImgConfig,
)

from .support import document

pytestmark = pytest.mark.lowest

TOML = """
prompt = "a lighthouse"
images = 2
[txt2img]
model = "base.safetensors"
sampler = "Euler a"
steps = 3
cfg_scale = 7.0
width = 64
height = 64
styles = ["film", "grain"]
[[adetailer.passes]]
model = "face_yolov8n.pt"
denoise = 0.4
"""
JSON = """{"adetailer": {"passes": [{"denoise": 0.4, "model": "face_yolov8n.pt"}]},
"prompt": "a lighthouse", "images": 2, "txt2img": {"model": "base.safetensors",
"sampler": "Euler a", "steps": 3, "cfg_scale": 7.0, "width": 64, "height": 64,
"styles": ["film", "grain"]}}"""
YAML = """
prompt: a lighthouse
images: 2
txt2img:
  {model: base.safetensors, sampler: Euler a, steps: 3, cfg_scale: 7.0, width: 64, height: 64,
   styles: [film, grain]}
adetailer:
  passes:
  - model: face_yolov8n.pt
    denoise: 0.4
"""


def load(path: Path, *overrides: str) -> RunConfig:
    return load_config(path, inputs=PillowInputReader(), runs=path.parent, overrides=overrides)


def written(folder: Path, text: str | bytes, name: str = "portrait.toml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(path: Path) -> str:
    """The lines with which a file is refused, quickly, without the file's name."""
    began = time.monotonic()
    with pytest.raises(ConfigurationError) as error:
        load(path)
    assert time.monotonic() - began < 5
    lines = str(error.value).split("\n")
    assert [line for line in lines if not line.startswith(f"{path}: ")] == []
    assert all(line.isprintable() for line in lines)
    return "\n".join(line.removeprefix(f"{path}: ") for line in lines)


@pytest.mark.parametrize(
    ("text", "suffix"),
    [(JSON, "json"), (YAML, "yaml"), (YAML, "yml"), (JSON, "yaml"), ("\ufeff" + TOML, "TOML")],
)
def test_every_format_gives_the_same_configuration(tmp_path: Path, text: str, suffix: str) -> None:
    """TOML, JSON and YAML are three ways to write one document; the suffix tells which."""
    expected = load(written(tmp_path, TOML))
    assert load(written(tmp_path, text, f"portrait.{suffix}")) == expected
    assert expected.images == 2
    assert expected.txt2img is not None
    assert expected.txt2img.styles == ("film", "grain")


def test_a_missing_name_is_the_files_stem(tmp_path: Path) -> None:
    """A name that is given stands; it is not written into the document."""
    config = load(written(tmp_path, TOML, "my.portrait.toml"))
    assert config.name == "my.portrait"
    assert "name" not in document_to_record(config)
    assert load(written(tmp_path, f'name = "given"\n{TOML}')).name == "given"


def test_the_document_is_kept_exactly_as_given(tmp_path: Path) -> None:
    """What the log will record is the parsed document after overrides: nothing more or less."""
    text = f"{TOML}\n[metadata]\nday = 2026-11-20\ndeep = {{ a = [1, 2.50, true] }}\n"
    path = written(tmp_path, text)
    config = load(path, "images=3", "txt2img.refiner.enabled=false")
    expected = copy.deepcopy(read_document(path))
    expected["images"] = 3
    expected["txt2img"]["refiner"] = {"enabled": False}
    assert document_to_record(config) == expected
    assert expected["metadata"] == {"day": date(2026, 11, 20), "deep": {"a": [1, 2.5, True]}}


def test_a_configuration_built_in_python_is_a_document_too() -> None:
    """What differs from the defaults; read again, it is the same configuration."""
    config = RunConfig(
        prompt="a lighthouse",
        images=2,
        txt2img=Txt2ImgConfig(
            model="m", sampler="Euler", steps=3, cfg_scale=7.0, width=64, height=64
        ),
    )
    shown = document_to_record(config)
    assert set(shown) == {"prompt", "images", "txt2img"}
    assert build_stage_execution_plan(shown) == build_stage_execution_plan(config)


def errors_of(config: dict[str, Any], *overrides: str) -> dict[str | None, FieldError]:
    """All errors of a document, by key."""
    with pytest.raises(InvalidStagePlanError) as error:
        parse_document(apply_overrides(config, overrides), source="portrait.toml")
    assert error.value.key == error.value.errors[0].key
    return {one.key: one for one in error.value.errors}


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("promt=x", "prompt"),
        ("rnu.learning=false", "run"),
        ("txt2img.hight=64", "txt2img.height"),
        ("txt2img.modle=x", "txt2img.model"),
        ("txt2img.hires.denoising_strength=0.5", "txt2img.hires.denoise"),
        ("img2img.refiner.modle=x", "img2img.refiner.model"),
        ("upscale.upscaler2=x", "upscale.upscaler_2"),
        ("adetailer.passes.0.mask_blurr=4", "adetailer.passes.0.mask_blur"),
        ("adetailer.pass.0.model=x", "adetailer.passes"),
        ("server.retry=1", "server.retries"),
        ("run.on_error=stop", "run.on_image_error"),
        ("inputs.0=x", "input_image"),
        ("loras=x", None),
        ("txt2img.lora=x", None),
        ("zzz=1", None),
    ],
)
def test_an_unknown_key_names_a_known_one_that_is_near(override: str, near: str | None) -> None:
    """Both as dotted paths, at the top, in a table, in a part, in a pass."""
    errors = errors_of(document("txt2img", "img2img", "upscale"), override)
    error = next(iter(errors.values()))
    assert error.key is not None
    assert override.startswith(error.key)
    assert (error.reason, error.nearest) == ("unknown key", near)
    meant = f"; did you mean {near}?" if near else ""
    assert error.message == f"portrait.toml: unknown key {error.key}{meant}"


@pytest.mark.parametrize(
    ("override", "shown", "words"),
    [
        ("images='two'", "'two'", "a whole number, not text"),
        ("images=2.5", "2.5", "a whole number"),
        ("images=true", "true", "a whole number"),
        ("txt2img.width='wide'", "'wide'", "a whole number, not text"),
        ("txt2img.tiling=1", "1", "true or false, not a number"),
        ("txt2img.model=[]", "[]", "text, not a list"),
        ("txt2img.model={a=1}", '{"a": 1}', "text, not a table"),
        ("adetailer.passes.0.denoise='much'", "'much'", "a number, not text"),
        ("adetailer.passes.0.merge='both'", "'both'", "'None' or 'Merge' or 'Merge and Invert'"),
        ("run.on_image_error='go'", "'go'", "'stop' or 'continue'"),
        ("run.durability='none'", "'none'", "'checkpoint' or 'every' or 'process'"),
        ("txt2img=[1]", "[1]", "a table, not a list"),
        ("txt2img.hires=2", "2", "a table, not a number"),
        ("adetailer.passes={model='x'}", '{"model": "x"}', "a list, not a table"),
        ("adetailer.passes.0='x'", "'x'", "a table, not text"),
        ("metadata='x'", "'x'", "a table, not text"),
        ('txt2img.vae=["a\\nb\\u007f"]', r'["a\nb\x7f"]', "text, not a list"),
    ],
)
def test_a_wrong_type_names_key_and_value(override: str, shown: str, words: str) -> None:
    """And what is expected there: a type, or the words that are permitted. It is one error."""
    config = document("txt2img", "adetailer")
    config["txt2img"]["styles"] = ["film"]
    key = override.partition("=")[0]
    (error,) = errors_of(config, override).values()
    assert error.message == f"portrait.toml: {key} = {shown} must be {words}"
    assert (error.key, error.reason) == (key, f"must be {words}")


def test_a_word_that_is_near_is_suggested() -> None:
    """Where a key takes only a few words."""
    error = errors_of(document(), "run.durability=chekpoint")["run.durability"]
    assert error.nearest == "'checkpoint'"
    assert error.message.endswith("; did you mean 'checkpoint'?")


def test_a_list_of_servers_names_at_least_one() -> None:
    """An empty list would silently mean the embedded backend."""
    (error,) = errors_of(document(server={"url": []})).values()
    assert error.key == "server.url"


@pytest.mark.parametrize("url", ["http://me:hush@x", ["http://me:hush@x"], {"a": "hush"}])
def test_the_address_of_a_server_is_not_shown(url: Any) -> None:
    """It may hold a password."""
    (error,) = errors_of(document(server={"url": url})).values()
    assert (error.key, error.value) == ("server.url", None)
    assert "hush" not in error.message


def test_a_long_value_is_shortened_in_the_message() -> None:
    """An error stays one line that can be read."""
    with pytest.raises(ConfigurationError) as error:
        parse_document({"images": "x" * 10_000})
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.toml", "prompt = ", "Invalid value"),
        ("a.toml", "[txt2img]\n[txt2img]\n", "txt2img is set twice (again in line 2)"),
        ("a.json", '{"prompt": }', "Expecting value: line 1"),
        ("a.yaml", "prompt: [a\nb: c\n", "line 2"),
        ("a.yaml", "prompt: !!timestamp x\n", "is not a valid date or number"),
        ("a.yaml", "prompt: !!bool x\n", "does not fit its tag"),
        ("a.yaml", "prompt: !!int ''\n", "does not fit its tag"),
        ("a.yaml", "prompt: 2026-13-45\n", "not a valid date"),
        ("a.toml", b"prompt = '\xff'", "not UTF-8 text; save the file as UTF-8"),
        ("a.json", '{"prompt": "ä"}'.encode("utf-16"), "not UTF-8 text; save the file as UTF-8"),
        ("a.yaml", "prompt: ä".encode("latin-1"), "not UTF-8 text; save the file as UTF-8"),
        ("a.json", "[1]", "not a table of keys and values"),
        ("a.yaml", "just words", "not a table of keys and values"),
        ("a.yaml", "", "not a table of keys and values"),
        ("a.yaml", "1: x\n", "the key 1 must be text"),
        ("a.yaml", "metadata: {on: x}\n", "the key metadata.true must be text"),
        ("a.yaml", "metadata: {a: [{null: x}]}\n", "the key metadata.a.0.null must be text"),
        ("a.yaml", "metadata: {a: !!set {x: null}}\n", "metadata.a is a set"),
        ("a.yaml", "metadata: {a: !!binary aGk=}\n", "metadata.a is bytes"),
        ("a.json", '{"metadata": {"a": "\\ud800"}}', "must be Unicode text"),
        ("a.toml", f"metadata.a = {2**64}", "is a number of more than 64 bits"),
        ("a.toml", '"a\\nb" = 1', "unknown key 'a\\nb'"),
        ("a.ini", "prompt = x", "a configuration ends in .toml, .json, .yaml, .yml"),
        ("a", "prompt = x", "a configuration ends in .toml, .json, .yaml, .yml"),
        ("a.toml", b"#" * (MAX_BYTES + 1), f"larger than {MAX_BYTES} bytes"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(
    tmp_path: Path, name: str, text: str | bytes, words: str
) -> None:
    """The line begins with the file and says what is wrong with it."""
    assert words in refused(written(tmp_path, text, name))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    """The operating system's reason is told."""
    assert "No such file" in refused(tmp_path / "none.toml")
    (tmp_path / "folder.toml").mkdir()
    assert "cannot be read" in refused(tmp_path / "folder.toml")


def bomb(line: str, levels: int) -> str:
    """YAML whose every level holds the one before nine times."""
    letters = "abcdefghijkl"
    lines = [
        f"{letters[place]}: &{letters[place]} "
        + line.replace("@", ", ".join([f"*{letters[place - 1]}"] * 9))
        for place in range(1, levels)
    ]
    return "\n".join(["a: &a {k: [x, x, x, x, x, x, x, x, x]}", *lines])


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.yaml", "name: !!python/object/apply:os.system ['false']", "could not determine"),
        ("a.yaml", "name: !!python/name:os.system", "could not determine"),
        ("a.yaml", bomb("[@]", 12), "more than 100000 values"),
        ("a.yaml", bomb("{<<: [@]}", 12), "aliases beside a merge key"),
        ("a.yaml", bomb("{!!m%65rge x: [@]}", 12), "aliases beside a merge key or a tag"),
        ("a.yaml", "metadata: &a {b: [*a]}", "nested too deep"),
        ("a.yaml", "a: " + "[" * 400_000, "nested too deep"),
        ("a.yaml", "- " * 400_000, "nested too deep"),
        # PyYAML from 6.0.4 on has a limit, and words, of its own.
        ("a.yaml", "\n".join(" " * depth + "a:" for depth in range(1000)), "nest"),
        ("a.json", '{"a":' * 100_000, "nested too deep"),
        ("a.json", '{"metadata":' * 600 + "1" + "}" * 600, "nested too deep"),
        ("a.toml", "a = " + "[" * 100_000, "nested too deep"),
        ("a.toml", "metadata" + ".a" * 400 + " = 1", "nested too deep"),
        ("a.toml", "a" + ".a" * 400_000 + " = 1", "more than 500 dots"),
        ("a.json", json.dumps({"metadata": {"a": [0] * 100_001}}), "more than 100000 values"),
        ("a.json", json.dumps({f"a_key_{place}_b": 1 for place in range(40_000)}), "unknown key"),
    ],
    ids=range(16),
)
def test_a_hostile_file_is_refused_quickly(
    tmp_path: Path, name: str, text: str, words: str
) -> None:
    """Tags run nothing, aliases fill no memory, depth overflows no stack."""
    assert words in refused(written(tmp_path, text, name))


def test_plain_anchors_and_merges_are_welcome(tmp_path: Path) -> None:
    """A few aliases and a merge key are ordinary YAML."""
    text = YAML.replace("- model", "- &one\n    model") + "  - {<<: *one, denoise: 0.2}\n"
    config = load(written(tmp_path, text, "a.yaml"))
    assert config.adetailer is not None
    assert [one.denoise for one in config.adetailer.passes] == [0.4, 0.2]
    assert config.adetailer.passes[1].model == "face_yolov8n.pt"


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("images=3", "images", 3),
        ("server.retries=0", "server.retries", 0),
        ("txt2img.cfg_scale = 4.5", "txt2img.cfg_scale", 4.5),
        ("txt2img.tiling=true", "txt2img.tiling", True),
        ("txt2img.sampler=DPM++ 2M", "txt2img.sampler", "DPM++ 2M"),
        ("txt2img.sampler='3'", "txt2img.sampler", "3"),
        ("txt2img.styles=['a', 'b']", "txt2img.styles", ["a", "b"]),
        ("txt2img.hires={scale = 2}", "txt2img.hires", {"scale": 2}),
        ("prompt=a = b", "prompt", "a = b"),
        ("prompt=", "prompt", ""),
        ('name="x"\nimages = 5', "name", '"x"\nimages = 5'),
        (f"name={'[' * 5000}", "name", "[" * 5000),
        ("adetailer.passes.0.denoise=0.5", "adetailer.passes.0.denoise", 0.5),
        ("adetailer.passes.1.model=hand.pt", "adetailer.passes.1", {"model": "hand.pt"}),
        ("img2img.refiner.model=x", "img2img", {"refiner": {"model": "x"}}),
        ("metadata.tags.0=x", "metadata.tags", ["x"]),
    ],
)
def test_an_override_puts_a_value_at_a_dotted_path(override: str, path: str, value: Any) -> None:
    """A TOML value, or else the text; the document that was read stays as it was."""
    given_document = document("txt2img", "adetailer")
    before = copy.deepcopy(given_document)
    changed: Any = apply_overrides(given_document, [override])
    for part in path.split("."):
        changed = changed[int(part) if part.isdigit() else part]
    assert (changed, type(changed)) == (value, type(value))
    assert given_document == before


def test_a_later_override_wins_and_passes_can_be_appended() -> None:
    """Overrides are put in one after another."""
    added = ("adetailer.passes.0.model=a", "adetailer.passes.1.model=b", "images=2", "images=3")
    changed = apply_overrides({}, added)
    assert changed == {"adetailer": {"passes": [{"model": "a"}, {"model": "b"}]}, "images": 3}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("images", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        (" =3", "expected KEY=VALUE"),
        ("adetailer.passes.2.model=x", "adetailer.passes has 1 entries, counted from 0"),
        ("adetailer.passes.first.model=x", "adetailer.passes has 1 entries"),
        ("adetailer.passes.\u00b2.model=x", "adetailer.passes has 1 entries"),
        (f"adetailer.passes.{'9' * 5000}.model=x", "adetailer.passes has 1 entries"),
        ("prompt.words.0=x", "prompt must be a table"),
    ],
)
def test_an_override_that_fits_nowhere_is_refused(override: str, words: str) -> None:
    """The error quotes the override and says what stands in its way."""
    with pytest.raises(ConfigurationError) as error:
        apply_overrides(document("txt2img", "adetailer"), [override])
    assert str(error.value).startswith(f"--set {override}: ")
    assert words in str(error.value)
