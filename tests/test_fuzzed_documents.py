"""Configurations made of anything: a plan or a clear error, and never another exception."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any, get_type_hints

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from stagewright.statemachine import (
    ConfigurationError,
    StageExecutionPlan,
    build_stage_execution_plan,
)
from stagewright.statemachine.config.document import apply_overrides, parse_document
from stagewright.statemachine.config.formats import read_document
from stagewright.statemachine.config.legacy import RunDocument
from stagewright.statemachine.stages import (
    AdetailerPass,
    Img2ImgConfig,
    Txt2ImgConfig,
    UpscaleConfig,
)

from .support import document

TABLES: dict[str, type[msgspec.Struct]] = {
    "txt2img": Txt2ImgConfig,
    "img2img": Img2ImgConfig,
    "upscale": UpscaleConfig,
}
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=4)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("enabled", "model", "scale", "a\n")), inner, max_size=3)
    ),
    max_leaves=6,
)


def some_keys(table: type[msgspec.Struct]) -> st.SearchStrategy[dict[str, Any]]:
    """A few of the table's keys with values of their types: what parses may be out of bounds."""
    typed = {
        name: VALUES if re.search("stagewright|Any", str(hint)) else st.from_type(hint)
        for name, hint in get_type_hints(table).items()
        if name in table.__struct_fields__
    }
    one = st.sampled_from(sorted(typed)).flatmap(lambda name: st.tuples(st.just(name), typed[name]))
    return st.lists(one, max_size=3).map(dict)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Valid documents with a few keys replaced by anything at all."""
    stages = draw(st.sampled_from([("txt2img",), ("txt2img", "img2img", "upscale", "adetailer")]))
    config = copy.deepcopy(document(*stages))
    for stage, table in TABLES.items():
        config.get(stage, {}).update(draw(some_keys(table)))
    if "adetailer" in config:
        config["adetailer"]["passes"][0].update(draw(some_keys(AdetailerPass)))
    config |= draw(some_keys(RunDocument))
    known = st.sampled_from(RunDocument.__struct_fields__)
    return config | draw(
        st.just({}) | st.dictionaries(known | st.text(max_size=3), VALUES, max_size=1)
    )


def error_of(kind: type[Exception], call: Callable[[], object]) -> Exception | None:
    """The error of this kind that ``call`` raises, if it does; any other comes through."""
    try:
        call()
    except kind as error:
        return error
    return None


@given(documents())
@example({"seed": 10**5000})
@example({"metadata": {"a": "\ud800"}})
@example({"images": 1, "txt2img": {"hires": {"scale": float("inf")}}})
def test_any_document_makes_a_plan_or_a_clear_error(config: dict[str, Any]) -> None:
    """The errors have a line each, name no key twice, and say nothing in words of Python."""
    error = error_of(ConfigurationError, lambda: build_stage_execution_plan(config))
    if error is None:
        assert recorded(build_stage_execution_plan(config)).stages
        return
    assert isinstance(error, ConfigurationError)
    keys = [one.key for one in error.errors]
    assert len(set(keys)) == len(keys)
    assert str(error).split("\n") == [one.message for one in error.errors]
    for one in error.errors:
        assert one.message.isprintable()
        assert not re.search(r"\b(str|int|float|bool|dict|NoneType|object|array)\b", one.reason)


def recorded(plan: StageExecutionPlan) -> StageExecutionPlan:
    """The plan as a log gives it back."""
    return StageExecutionPlan.from_document(msgspec.json.decode(msgspec.json.encode(plan)))


PIECES = (
    "a", ": ", "- ", "\n", " ", "[", "]", "{", "}", "&a ", "*a", "!!int ", "!!map ", "!!set ", "<<",
    "'", '"', "1", "=", ".", "\t", "?", "|", "#", "\x00", "\ufeff", "\u2028", "2026-1-1", "_:9",
)  # fmt: skip


@given(
    st.lists(st.sampled_from(PIECES), max_size=25).map("".join).map(str.encode) | st.binary(),
    st.sampled_from(["toml", "json", "yaml"]),
)
def test_any_bytes_make_a_document_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str
) -> None:
    """Whatever stands in a file, reading it raises nothing but ConfigurationError."""
    path = tmp_path_factory.getbasetemp() / f"fuzz.{suffix}"
    path.write_bytes(data)
    error = error_of(ConfigurationError, lambda: read_document(path))
    if error is None:
        error_of(ConfigurationError, lambda: parse_document(read_document(path)))
    else:
        assert [one for one in str(error).split("\n") if not one.startswith(f"{path}: ")] == []
        assert all(one.isprintable() for one in str(error).split("\n"))


@given(
    st.lists(st.sampled_from(["txt2img", "passes", "0", "1", "\u00b2", "", "steps"]), max_size=4),
    st.text(max_size=6) | st.lists(st.sampled_from(PIECES), max_size=6).map("".join),
)
def test_any_override_is_put_in_or_refused(path: list[str], value: str) -> None:
    """Whatever follows ``--set``, the outcome is a document or a ConfigurationError."""
    override = f"{'.'.join(path)}={value}"
    config = document("txt2img", "adetailer")
    error = error_of(ConfigurationError, lambda: apply_overrides(config, [override]))
    if error is None:
        assert apply_overrides(config, [override]).keys() == config.keys() | {path[0]}
    else:
        assert str(error).startswith(f"--set {override}: ")
