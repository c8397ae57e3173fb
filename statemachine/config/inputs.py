"""From a configuration in any form to one whose input images have been found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from ..errors import ConfigurationError, FieldError, show_value
from ..ports import InputReader
from ..variants.axes import VARY, VariedAxis
from .document import (
    apply_overrides,
    document_to_record,
    parse_document,
    refuse_sweep,
    set_values,
    without_sweep,
)
from .input_search import find_inputs
from .layers import Layer, extend_document, find_source, merge_layers, read_layers
from .schema import RunConfig
from .validation import Source, source_of

AnyConfig = RunConfig | Mapping[str, Any] | Path


class ConfigDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration that was loaded and not parsed: it may lack what its sweep supplies.

    Paths are relative to ``folder``, but those of the keys that are ``typed`` on the command line
    to the working folder. ``name`` is used where the document has none. ``source`` is where it
    comes from, for errors. ``found`` has what a RunConfig found already.
    """

    document: Mapping[str, Any]
    folder: Path
    name: str | None = None
    typed: frozenset[str] = frozenset()
    source: Source = ""
    found: Mapping[str, Any] = {}

    def parse(self) -> RunConfig:
        """The typed configuration. Raises ConfigurationError with all errors."""
        return parse_document(self.document, source=self.source, name=self.name, found=self.found)

    def find(self, config: RunConfig, *, inputs: InputReader, runs: Path) -> RunConfig:
        """``config``, which ``parse`` gave, with its input images. Raises ConfigurationError."""
        return find_inputs(config, folder=self.folder, inputs=inputs, runs=runs, typed=self.typed)

    def with_values(
        self, values: Mapping[str, Any], axes: Sequence[VariedAxis] = ()
    ) -> ConfigDocument:
        """The document without its sweep, with ``values`` set at their dotted keys as by --set.

        ``axes`` say where each key is varied, for errors and for the folder of relative paths:
        the working folder for ``--vary``. Raises ConfigurationError.
        """
        source = partial(_source_of_variant, self, values, axes)
        typed = {key for one in axes if one.place == VARY for key in one.keys}
        return msgspec.structs.replace(
            self,
            document=set_values(without_sweep(self.document), values, source),
            typed=self.typed.difference(values) | typed,
            source=source,
            found=_still_found(self.found, values),
        )


def load_document(
    path: Path,
    *,
    overrides: Iterable[str] = (),
    profile: Mapping[str, Any] = {},
    profile_source: str = "profile",
) -> ConfigDocument:
    """Read a configuration and apply ``overrides``.

    The values of the file that it extends, and below them those of ``profile``, are used where it
    has none; ``profile_source`` names the latter in errors. Paths are relative to its folder;
    those in ``overrides``, which a person types, to the working folder. Raises ConfigurationError.
    """
    overrides = tuple(overrides)
    layers = [*read_layers(path), Layer(profile_source, profile)]
    return ConfigDocument(
        document=apply_overrides(merge_layers(layers), overrides),
        folder=path.parent,
        name=path.stem,
        typed=frozenset(override.partition("=")[0].strip() for override in overrides),
        source=lambda error: find_source(error, layers, overrides),
    )


def document_of(config: AnyConfig) -> ConfigDocument:
    """``config``, in any form, as a document.

    Paths in a document or a RunConfig are relative to the working folder. What a RunConfig has
    found is kept. Raises ConfigurationError, TypeError.
    """
    if isinstance(config, Path):
        return load_document(config)
    if isinstance(config, RunConfig):
        document, found = document_to_record(config), config.found
        return ConfigDocument(document=document, folder=Path.cwd(), name=config.name, found=found)
    if not isinstance(config, Mapping):
        raise TypeError(f"a configuration is a RunConfig, a mapping or a Path, not {config!r}")
    return ConfigDocument(
        document=merge_layers(extend_document(config, Path.cwd())), folder=Path.cwd()
    )


def load_config(
    path: Path,
    *,
    inputs: InputReader,
    runs: Path,
    overrides: Iterable[str] = (),
) -> RunConfig:
    """The configuration of ``load_document``, with its input images.

    Raises ConfigurationError with all errors, also for what only its sweep supplies.
    """
    loaded = load_document(path, overrides=overrides)
    return loaded.find(loaded.parse(), inputs=inputs, runs=runs)


def resolve_config(config: AnyConfig, *, inputs: InputReader, runs: Path) -> RunConfig:
    """``config``, in any form, with its input images found, for one run.

    Paths in a document or a RunConfig are relative to the working folder. Raises
    ConfigurationError, also for a sweep.
    """
    if isinstance(config, RunConfig):
        refuse_sweep(config.sweep)
        return find_inputs(config, folder=Path.cwd(), inputs=inputs, runs=runs)
    loaded = document_of(config)
    refuse_sweep(loaded.document.get("sweep"))
    return loaded.find(loaded.parse(), inputs=inputs, runs=runs)


def _source_of_variant(
    base: ConfigDocument, values: Mapping[str, Any], axes: Sequence[VariedAxis], error: FieldError
) -> str:
    """Where the value at fault is varied; else where it is set, and with which values."""
    for one in axes:
        if not any(f"{error.key}.".startswith(f"{key}.") for key in one.keys):
            continue
        if one.place == VARY:
            return VARY
        number = list(one.rows).index(tuple(values[key] for key in one.keys))
        origin = source_of(base.source, msgspec.structs.replace(error, key=one.place))
        where = one.value_place(number)
        return f"{origin}: {where}" if origin else where
    origin = source_of(base.source, error)
    if _is_in_base(error, base):
        return origin
    shown = ", ".join(f"{key} = {show_value(value)}" for key, value in values.items())
    return f"{origin}, with {shown}" if origin else f"with {shown}"


def _is_in_base(error: FieldError, base: ConfigDocument) -> bool:
    """Whether the configuration without any values of a sweep has the same error."""
    try:
        parse_document(without_sweep(base.document), found=base.found)
    except ConfigurationError as wrong:
        return any((one.key, one.reason) == (error.key, error.reason) for one in wrong.errors)
    return False


def _still_found(found: Mapping[str, Any], values: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was found, without what these values may change."""
    if not found:
        return found
    changed = {"drawn_prompts"}
    for key in values:
        first, _, rest = key.partition(".")
        if first in ("prompts", "dynamic_prompts", "wildcards"):
            changed.add("prompt_source")
        elif first in ("input_image", "input_image_path"):
            changed |= {"inputs", "input_notes", "masks"}
        elif first == "server" and rest in ("", "ca_bundle"):
            changed.add("ca_bundle")
        elif rest in ("", "mask"):
            changed |= {"mask", "masks"}
    return {name: value for name, value in found.items() if name not in changed}
