"""The kinds of names that a server looks up: where it lists them, and which keys use them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from enum import StrEnum
from typing import Any

import msgspec

from ....statemachine.plan.plan import StageExecution, StageExecutionPlan
from ....statemachine.ports import GenerateRequest
from ....statemachine.stages import StageConfig
from .spellings import (
    AUTOMATIC,
    HASH,
    NO_VAE,
    SAME_AS_THE_STAGE,
    file_of,
    known_digits,
    stem,
    vae_stem,
)

_LONGEST_NAME = 1000
_INDEX = re.compile(r"\.[0-9]+\b")
_NONE = frozenset(["None"])
_MOST_INHERITED = 8
"""More modules or styles than a plan names."""


class Entry(msgspec.Struct, frozen=True):
    """One entry of a list: its name, and all names that a request may use for it.

    ``short_forms`` may stand for it in a configuration, if they are those of no other entry.
    ``digits`` are those of the hash of its file, "" where the list has none.
    """

    name: str
    forms: frozenset[str]
    short_forms: frozenset[str] = frozenset()
    digits: str = ""


NameList = tuple[Entry, ...]
Reader = Callable[[Any], Entry | None]
"""Makes an entry of one row of a server's list; None where the row holds no name."""


class NameKind(StrEnum):
    """What a name is a name of."""

    CHECKPOINT = "checkpoint"
    VAE = "vae"
    SAMPLER = "sampler"
    SCHEDULER = "scheduler"
    UPSCALER = "upscaler"
    HIRES_UPSCALER = "hires upscaler"
    STYLE = "style"
    DETECTOR = "detector"
    MODULE = "module"
    LORA = "LoRA"
    EMBEDDING = "embedding"


class KindOfName(msgspec.Struct, frozen=True):
    """``plural`` is what ``doctor`` calls the list at ``route``, ``reader`` reads its rows.

    ``keys`` are those of a configuration that hold such names, lists without indexes.
    ``everywhere`` are names that every server knows. ``refresh_route`` makes the server read its
    files again.
    """

    plural: str
    route: str
    reader: Reader
    keys: tuple[str, ...]
    everywhere: frozenset[str] = frozenset()
    refresh_route: str | None = None


def _texts(row: Any, *keys: str) -> list[str]:
    """The values of keys that hold a string."""
    document: Mapping[str, Any] = row if isinstance(row, Mapping) else {}
    values = (document.get(key) for key in keys)
    return [one for one in values if isinstance(one, str) and 0 < len(one) <= _LONGEST_NAME]


def _entry(known: list[str]) -> Entry | None:
    return Entry(known[0], frozenset(known)) if known else None


def _checkpoint(row: Any) -> Entry | None:
    """A checkpoint with all names by which the server itself looks it up.

    Those are its title, its path in the models' folder (the title without hash), its stem,
    what the list calls model_name, and its hashes; each but the last also with `` [hash]``.
    """
    titles = _texts(row, "title")
    if not titles:
        return _file(row)
    path = HASH.sub("", titles[0])
    plain = {path, stem(path), *_texts(row, "model_name")}
    in_title = HASH.search(titles[0])
    hashes = [*_texts(row, "hash", "sha256"), *([in_title[0].strip(" []")] if in_title else [])]
    hashed = {f"{name} [{one}]" for name in plain for one in hashes}
    digits = next(filter(None, map(known_digits, _texts(row, "sha256", "hash"))), "")
    return Entry(path, frozenset([*titles, *plain, *hashes, *hashed]), digits=digits)


def _file(row: Any) -> Entry | None:
    """A VAE, which a request names by its file name only."""
    known = [*_texts(row, "model_name"), *map(file_of, _texts(row, "filename"))]
    return Entry(known[0], frozenset(known), frozenset(map(vae_stem, known))) if known else None


def _scheduler(row: Any) -> Entry | None:
    return _entry(_texts(row, "label", "name"))


def _named(row: Any) -> Entry | None:
    """Since 1.10 an alias of a sampler is no name: the server takes it for DPM++ 2M."""
    return _entry(_texts(row, "name"))


def _lora(row: Any) -> Entry | None:
    """A LoRA, which a prompt may also name by its alias.

    Its hash is the one that its training stored in it, which is what the server's answers show.
    """
    known = _texts(row, "name", "alias")
    if not known:
        return None
    metadata = row.get("metadata")
    stored = metadata.get("sshs_model_hash") if isinstance(metadata, Mapping) else None
    return Entry(known[0], frozenset(known), digits=known_digits(stored))


def _plain(row: Any) -> Entry | None:
    return _entry([row] if isinstance(row, str) and 0 < len(row) <= _LONGEST_NAME else [])


def _detector(row: Any) -> Entry | None:
    if not isinstance(row, str) or not 0 < len(row) <= _LONGEST_NAME:
        return None
    return Entry(row, frozenset([row, file_of(row)]))


def _keys(name: str, *more: str) -> tuple[str, ...]:
    """The keys of a setting that both generating stages and passes of ADetailer have."""
    return (f"txt2img.{name}", f"img2img.{name}", f"adetailer.passes.{name}", *more)


_CHECKPOINT_KEYS = (
    *("txt2img.model", "txt2img.refiner.model", "txt2img.hires.model"),
    *("img2img.model", "img2img.refiner.model", "adetailer.passes.checkpoint"),
)
_API = "/sdapi/v1"
SD_MODULES = f"{_API}/sd-modules"
"""Where Forge lists VAEs and text encoders."""

KINDS: Mapping[NameKind, KindOfName] = {
    NameKind.CHECKPOINT: KindOfName(
        "checkpoints",
        f"{_API}/sd-models",
        _checkpoint,
        _CHECKPOINT_KEYS,
        refresh_route=f"{_API}/refresh-checkpoints",
    ),
    NameKind.VAE: KindOfName(
        "vaes", f"{_API}/sd-vae", _file, _keys("vae"), NO_VAE, f"{_API}/refresh-vae"
    ),
    NameKind.SAMPLER: KindOfName(
        "samplers", f"{_API}/samplers", _named, _keys("sampler", "txt2img.hires.sampler")
    ),
    NameKind.SCHEDULER: KindOfName(
        "schedulers",
        f"{_API}/schedulers",
        _scheduler,
        _keys("scheduler", "txt2img.hires.scheduler"),
    ),
    NameKind.UPSCALER: KindOfName(
        "upscalers", f"{_API}/upscalers", _named, ("upscale.upscaler", "upscale.upscaler_2"), _NONE
    ),
    NameKind.HIRES_UPSCALER: KindOfName(
        "latent upscale modes",
        f"{_API}/latent-upscale-modes",
        _named,
        ("txt2img.hires.upscaler",),
        _NONE,
    ),
    NameKind.STYLE: KindOfName(
        "styles", f"{_API}/prompt-styles", _named, ("txt2img.styles", "img2img.styles")
    ),
    NameKind.DETECTOR: KindOfName(
        "detectors", "/adetailer/v1/ad_model", _detector, ("adetailer.passes.model",)
    ),
    NameKind.MODULE: KindOfName(
        "modules",
        SD_MODULES,
        _file,
        _keys("modules", "txt2img.hires.modules"),
        frozenset(["Use same choices", "Built-in"]),
        f"{_API}/refresh-vae",
    ),
    NameKind.LORA: KindOfName(
        "loras", f"{_API}/loras", _lora, (), refresh_route=f"{_API}/refresh-loras"
    ),
    NameKind.EMBEDDING: KindOfName(
        "embeddings",
        f"{_API}/embeddings",
        _plain,
        (),
        refresh_route=f"{_API}/refresh-embeddings",
    ),
}
_KIND_OF_KEY = {key: kind for kind, known in KINDS.items() for key in known.keys}
_INHERITED = {
    **{f"img2img.{name}": f"txt2img.{name}" for name in ("model", "vae", "sampler", "scheduler")},
    **{
        f"img2img.{name}.{place}": f"txt2img.{name}.{place}"
        for name in ("modules", "styles")
        for place in range(_MOST_INHERITED)
    },
    "txt2img.hires.model": "txt2img.refiner.model",
}
"""By key, the one that it takes its name from where both are the same."""
_IN_PROMPTS: Mapping[NameKind, re.Pattern[str]] = {
    NameKind.LORA: re.compile(r"<(?:lora|lyco):([^:<>]+)(?::[^<>]*)?>"),
    NameKind.EMBEDDING: re.compile(r"(?<!\w)embedding:([\w.\-]*\w)"),
}
_EXACT = "txt2img.hires.sampler"


class NameUse(msgspec.Struct, frozen=True):
    """A name that is sent to a server, and the key of the configuration that it comes from.

    ``partner`` is the scheduler of a sampler, or the sampler of a scheduler, because old servers
    take both as one name. ``exact`` says that a name of both is not accepted.
    """

    kind: NameKind
    key: str
    name: str
    partner: str | None = None
    exact: bool = False


def respelled(table: Any, key: str, spellings: Mapping[tuple[NameKind, str], str]) -> Any:
    """A stage's configuration at ``key`` with names as the server spells them."""
    if isinstance(table, tuple):
        return tuple(respelled(part, f"{key}.0", spellings) for part in table)
    if isinstance(table, msgspec.Struct):
        values = {
            field.name: respelled(
                getattr(table, field.name), f"{key}.{field.encode_name}", spellings
            )
            for field in msgspec.structs.fields(table)
        }
        return msgspec.structs.replace(table, **values)
    kind = _kind_at(key)
    return spellings.get((kind, table), table) if kind and isinstance(table, str) else table


def _kind_at(key: str) -> NameKind | None:
    """What a key of a resolved stage names."""
    plain = _INDEX.sub("", key)
    # ADetailer has the settings of the stage that its input comes from.
    return _KIND_OF_KEY.get(plain) or _KIND_OF_KEY.get(f"txt2img.{plain.partition('.')[2]}")


def names_of_stage(config: StageConfig) -> Iterator[NameUse]:
    """Every name in a resolved stage, also those that every server knows, and those in prompts."""
    for key, value in _values(msgspec.to_builtins(config), config.stage_type):
        kind = _kind_at(key)
        if kind is not None and isinstance(value, str):
            yield NameUse(kind, key, value)
    yield from _named_in_prompts(config, config.stage_type, set())


def prompts_of_stage(config: StageConfig) -> Iterator[str]:
    """Every prompt in a resolved stage."""
    for key, value in _values(msgspec.to_builtins(config), config.stage_type):
        if isinstance(value, str) and key.endswith("prompt"):
            yield value


def names_used(plan: StageExecutionPlan) -> tuple[NameUse, ...]:
    """The names that ``plan`` uses on a server, in the order of its stages.

    An inherited name appears once, with the key that it comes from. Names that every server
    knows (VAE "None", scheduler "Automatic") are left out. A plan may have several stages of one
    type, of the variants of a sweep.
    """
    seen: set[tuple[str, str]] = set()
    uses: list[NameUse] = []
    for stage in plan.stages:
        texts = dict(_named_in(stage))
        seen.update(texts.items())
        uses += [_use(key, text, texts, seen) for key, text in texts.items()]
    return tuple(dict.fromkeys(use for use in uses if not is_known_everywhere(use)))


def silent_names(request: GenerateRequest) -> Iterator[NameUse]:
    """The names of a request that a server may ignore without a trace where it lacks them."""
    for use in names_of_stage(request.config):
        if use.kind in (NameKind.LORA, NameKind.EMBEDDING):
            yield use
        elif use.kind in (NameKind.STYLE, NameKind.DETECTOR):
            yield msgspec.structs.replace(use, key=_INDEX.sub("", use.key))


def names_in_prompts(plan: StageExecutionPlan, prompts: Sequence[str]) -> Iterator[NameUse]:
    """The LoRAs and embeddings in the prompts of ``plan``, each with its first key, and images."""
    seen: set[str] = set()
    for stage in plan.stages:
        yield from _named_in_prompts(stage.config, stage.stage_type, seen)
    for text in prompts:
        yield from named_in_text(text, "prompts")


def _named_in_prompts(config: StageConfig, stage_type: str, seen: set[str]) -> Iterator[NameUse]:
    """The LoRAs and embeddings in the prompts of a stage that are not ``seen`` yet."""
    for key, value in _values(msgspec.to_builtins(config), stage_type):
        if isinstance(value, str) and key.endswith("prompt") and value not in seen:
            seen.add(value)
            yield from named_in_text(value, key)


def named_in_text(text: str, key: str) -> Iterator[NameUse]:
    """The LoRAs and embeddings that a prompt at ``key`` names."""
    for kind, pattern in _IN_PROMPTS.items():
        for found in pattern.finditer(text):
            yield NameUse(kind, key, found[1].strip())


def _named_in(stage: StageExecution) -> Iterator[tuple[str, str]]:
    """The keys of a stage that hold names, and the names; an empty one is the server's choice."""
    for key, value in _values(msgspec.to_builtins(stage.config), stage.stage_type):
        if isinstance(value, str) and value.strip() and _INDEX.sub("", key) in _KIND_OF_KEY:
            yield key, value


def _values(table: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Every value with its dotted key; a table that is switched off is left out."""
    if isinstance(table, Mapping):
        if table.get("enabled") is not False:
            for name, value in table.items():
                yield from _values(value, f"{key}.{name}")
    elif isinstance(table, list | tuple):
        for index, value in enumerate(table):
            yield from _values(value, f"{key}.{index}")
    else:
        yield key, table


def _use(key: str, name: str, texts: Mapping[str, str], seen: Set[tuple[str, str]]) -> NameUse:
    kind = _KIND_OF_KEY[_INDEX.sub("", key)]
    table, _, setting = key.rpartition(".")
    partners = {"sampler": "scheduler", "scheduler": "sampler"}
    partner = texts.get(f"{table}.{partners[setting]}") if setting in partners else None
    origin = _INHERITED.get(key, "")
    is_inherited = (origin, name) in seen
    return NameUse(kind, origin if is_inherited else key, name, partner, key == _EXACT)


def is_of_a_part(key: str) -> bool:
    """Whether a key belongs to a table in a stage: hires, refiner, or a pass of ADetailer."""
    return key.count(".") > 1


def is_known_everywhere(use: NameUse) -> bool:
    """Whether a name is one that no list needs to have."""
    if use.kind is NameKind.SCHEDULER and use.name.casefold() == AUTOMATIC:
        return True
    if is_of_a_part(use.key) and use.name in SAME_AS_THE_STAGE:
        return True
    return use.name in KINDS[use.kind].everywhere
