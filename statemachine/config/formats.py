"""Configuration files: TOML, JSON or YAML, read into a document within limits."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import ConfigurationError, FieldError, field_error
from .legacy import RunDocument
from .schema import type_with_stages
from .validation import as_error, copy_document, hint_at, is_number, is_text, join_key

if TYPE_CHECKING:
    from yaml import Node

MAX_BYTES = 1024 * 1024
SUFFIXES = {".toml": "TOML", ".json": "JSON", ".yaml": "YAML", ".yml": "YAML"}

# The parsers behind YAML and TOML overflow the stack, or take minutes, on a few kinds of text
# well below MAX_BYTES; no configuration comes near these counts.
_MAX_BRACKETS = 5000
_MAX_MERGED = 8
_MAX_DOTS = 500
_DEEP_BLOCK = re.compile(r"(?:[-?:][ \t]+){64}")
_TAG = re.compile(r"(?:^|[\s\[{,])!")
_DECODE_ERRORS = (ValueError, LookupError, AttributeError, TypeError, ArithmeticError)
_MERGE_TAG = "tag:yaml.org,2002:merge"
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")
"""Numbers such as 1e9, which are text in YAML 1.1."""
_TOML_TWICE = re.compile(
    r"(?:Cannot|Duplicate)(?: inline table key '(?P<key>.+)')?.*\(at (?:line (?P<line>\d+)|end)"
)
_TOML_HEADER = re.compile(r"\s*\[+\s*([^\]]+?)\s*\]")
_TOML_KEY = re.compile(r"\s*([^=\[{#]+?)\s*=")

Repeated = tuple[str, int]
"""The dotted path of a key that is set twice, and the line of the second; 0: not known."""


def read_document(path: Path, language: str | None = None) -> dict[str, Any]:
    """The document in a file of this language, or of the one that its suffix says.

    In YAML, what a text key holds is the text as written (``0123``, ``yes``), not its value.
    Raises ConfigurationError, also for keys that are set twice, which it names.
    """
    language = language or SUFFIXES.get(path.suffix.lower())
    if language is None:
        raise ConfigurationError(f"{path}: a configuration ends in {', '.join(SUFFIXES)}")
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise ConfigurationError(f"{path}: larger than {MAX_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8 text; save the file as UTF-8") from error
    try:
        document, repeated = _DECODERS[language](text)
    except RecursionError as error:
        raise ConfigurationError(f"{path}: nested too deep") from error
    except _DECODE_ERRORS as error:
        words = " ".join(str(error).replace(' in "<unicode string>",', " in").split())
        raise ConfigurationError(f"{path}: not valid {language}: {words}") from error
    if repeated:
        raise as_error([_set_twice(*one) for one in repeated], str(path))
    if not isinstance(document, dict):
        raise ConfigurationError(f"{path}: not a table of keys and values")
    return copy_document(document, str(path))


def _set_twice(key: str, line: int) -> FieldError:
    again = f" (again in line {line})" if line else ""
    return field_error(key, f"is set twice{again}; remove one")


def _decode_toml(text: str) -> tuple[Any, list[Repeated]]:
    lines = text.split("\n")
    if any(line.count(".") > _MAX_DOTS for line in lines):
        raise ValueError(f"a line has more than {_MAX_DOTS} dots")
    try:
        return tomllib.loads(text), []
    except tomllib.TOMLDecodeError as error:
        found = _TOML_TWICE.match(str(error))
        line = int(found["line"] or len(lines)) if found else 0
        key = _toml_key(lines[:line])
        if found is None or not key:
            raise
        return {}, [(join_key(key, found["key"]) if found["key"] else key, line)]


def _toml_key(lines: list[str]) -> str:
    """The dotted path that was set last in these lines of TOML; "" if there is none."""
    table, key = "", ""
    entries: Counter[str] = Counter()
    for line in lines:
        if header := _TOML_HEADER.match(line):
            table, key = header[1], ""
            if line.lstrip().startswith("[["):
                table = f"{table}.{entries[table]}"
                entries[header[1]] += 1
        elif found := _TOML_KEY.match(line):
            key = found[1]
    return re.sub("[\"']", "", f"{table}.{key}".strip("."))


def _decode_json(text: str) -> tuple[Any, list[Repeated]]:
    found: list[tuple[Any, str]] = []

    def make_table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for key, value in pairs:
            if key in table:
                found.append((table, key))
            table[key] = value
        return table

    document = json.loads(text, object_pairs_hook=make_table)
    paths = {id(table): path for path, table in _containers(document)} if found else {}
    return document, [(join_key(paths.get(id(table), ""), key), 0) for table, key in found]


def _containers(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every table and list of a document, with its dotted path."""
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    yield path, value
    for key, part in parts:
        if isinstance(part, dict | list):
            yield from _containers(part, join_key(path, key))


def _decode_yaml(text: str) -> tuple[Any, list[Repeated]]:
    import yaml  # noqa: PLC0415 - 10 ms that only YAML needs

    if text.count("[") + text.count("{") > _MAX_BRACKETS or _DEEP_BLOCK.search(text):
        raise ValueError(f"nested too deep, or more than {_MAX_BRACKETS} brackets")
    # Merged aliases multiply while PyYAML reads them; a tag may be a merge in disguise.
    if ("<<" in text or _TAG.search(text)) and text.count("*") > _MAX_MERGED:
        raise ValueError(f"more than {_MAX_MERGED} aliases beside a merge key or a tag")
    try:
        document = msgspec.yaml.decode(text)
    except _DECODE_ERRORS as error:
        # The message of a function that made a value would not help, as that of the parser does.
        origin = error.__context__ if isinstance(error, msgspec.DecodeError) else error
        if isinstance(origin, yaml.YAMLError):
            raise
        raise ValueError(
            "a value is not a valid date or number, or does not fit its tag"
        ) from error
    node = yaml.compose(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if node is None or not isinstance(document, dict):
        return document, []
    kind = type_with_stages(RunDocument, [key for key in document if isinstance(key, str)])
    return _as_written(document, node, kind), list(_repeated_nodes(node, "", set()))


def _repeated_nodes(node: Node, path: str, seen: set[int]) -> Iterator[Repeated]:
    if id(node) in seen or not isinstance(node.value, list):
        return
    seen.add(id(node))  # an alias stands for a node that was seen
    known: set[tuple[str, str]] = set()
    for place, part in enumerate(node.value):
        if not isinstance(part, tuple):
            yield from _repeated_nodes(part, join_key(path, place), seen)
            continue
        key, value = part
        where = join_key(path, str(key.value))
        if isinstance(key.value, str) and (key.tag, key.value) in known:
            yield where, key.start_mark.line + 1
        known.add((key.tag, str(key.value)))
        yield from _repeated_nodes(value, where, seen)


def _as_written(value: Any, node: Node, hint: Any) -> Any:
    """``value``, with the text of the node in place of what YAML takes a text or number for."""
    if isinstance(value, dict):
        nodes = _merged_nodes(node)
        return {
            key: _as_written(part, nodes[key], hint_at(hint, key))
            if key in nodes and hint_at(hint, key) is not None
            else part
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [
            _as_written(part, below, hint_at(hint, "0"))
            for part, below in zip(value, node.value, strict=False)
        ]
    if not isinstance(node.value, str) or getattr(node, "style", None):
        return value  # in quotes
    if is_text(hint) and value is not None:
        return node.value
    if is_number(hint) and isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    return value


def _merged_nodes(node: Node) -> dict[str, Node]:
    """The nodes of a table's values by key, also of the tables that are merged into it."""
    merged: dict[str, Node] = {}
    for key, value in node.value if isinstance(node.value, list) else ():
        if key.tag == _MERGE_TAG:
            for one in value.value if value.id == "sequence" else [value]:
                merged = {**_merged_nodes(one), **merged}
    return merged | {key.value: value for key, value in node.value if key.tag != _MERGE_TAG}


_DECODERS: Mapping[str, Any] = {"TOML": _decode_toml, "JSON": _decode_json, "YAML": _decode_yaml}
