"""The hashes of a server's files, from its lists and from its answers."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, TypeVar

import msgspec

from ....statemachine.errors import BackendError
from ....statemachine.plan.plan import StageExecutionPlan
from ....statemachine.ports import SERVER_VERSION
from ....statemachine.stages import AdetailerConfig, StageConfig, UpscaleConfig
from ..infotext_settings import infotext_values
from .answer_check import HASHES, extra_parameters
from .features import ServerFeatures
from .lists import OPTIONS, ServerLists, entry_of
from .names import KINDS, NameKind, is_known_everywhere, named_in_text, names_of_stage
from .spellings import file_of, known_digits, stem, vae_stem, without_suffix
from .used_files import UsedFile, UsedFiles

_HASHED = frozenset([NameKind.CHECKPOINT, NameKind.LORA, NameKind.STYLE])
"""The kinds whose lists have hashes; that of a style is one of its prompts."""
_REFRESHED = frozenset([NameKind.CHECKPOINT, NameKind.LORA])
_MODEL_OF_SERVER = ""
_DETAILER_VERSION = "version of ADetailer"
"""The key of the version of the extension, for the stage that it makes."""
_DETAILER = "ADetailer version"
_NETWORK = re.compile(r"([^,]+):\s*([^,:]*)")
"""One of several: ``name: hash, name: hash``. The names are without commas."""
_TITLE = re.compile(r"(.*) \[([0-9a-fA-F]+)\]", re.DOTALL)
Key = TypeVar("Key")


class ServerFileHashes:
    """The hashes of one server's files for one run; see ``FileHashes``. Safe from any thread.

    ``lists`` and ``features`` are those that preflight has read. The hash in an answer of the run
    replaces that in a list, because the list may be older than the file.

    The VAE hash of an answer is not used: a server looks all VAEs up under one key, and may show
    the hash of another one.
    """

    def __init__(
        self,
        lists: ServerLists,
        features: Callable[[], ServerFeatures],
        options: Callable[[], Mapping[str, Any] | None],
    ) -> None:
        self._lists = lists
        self._used = UsedFiles(lists, features)
        self._options = options
        self._lock = threading.Lock()
        self._listed: dict[UsedFile, tuple[str, str]] = {}
        self._answered: dict[tuple[str, str], str] = {}
        self._versions: dict[str, str | None] = {}
        self._fresh: set[NameKind] = set()
        self._stale: set[NameKind] = set()

    def reported(self, config: StageConfig) -> Mapping[str, str | None]:
        """The present hash of each file that a resolved stage names; see ``FileHashes``."""
        with self._lock:
            try:
                files = self._files(config)
                self._refresh({file.kind for file in files if file.kind} & _REFRESHED)
                found = [self._present(file) for file in files]
                others = {**self._doubtful(files), **self._present_versions(config)}
            except BackendError:
                return {"everything": ""}
            known = _merged(found)
            # A checkpoint whose hash is gone may have been replaced; others may never have had one.
            lost = {key for file, (key, _) in zip(files, found, strict=True)
                    if file.kind is NameKind.CHECKPOINT}  # fmt: skip
            hashes = {key: it or ("" if key in lost else None) for key, it in known.items()}
            return {**hashes, **others}

    def shown(self, config: StageConfig, info: Mapping[str, Any]) -> Mapping[str, str]:
        """The hashes that the ``info`` of an answer shows of the files of a stage.

        VAEs and modules that it names without a hash have "".
        """
        answered = _answered(info)
        with self._lock:
            try:
                keys = {_place(file, key := self._listed_at(file)[0]): key
                        for file in self._files(config)}  # fmt: skip
            except BackendError:
                return {}
        known = {keys.get(place, " ".join(place)): digits for place, digits in answered.items()}
        return {**dict.fromkeys(_loaded(info), ""), **known, **_shown_versions(info)}

    def note_answer(self, info: Mapping[str, Any]) -> None:
        """From now on, the hashes in this answer of the run are the present ones."""
        with self._lock:
            self._answered.update((place, it) for place, it in _answered(info).items() if it)
            self._versions.update(_shown_versions(info))

    def of_plan(self, plan: StageExecutionPlan, prompts: Sequence[str]) -> Mapping[str, str]:
        """The known hashes of the files that a plan and the prompts of its images name.

        Raises ServerError.
        """
        with self._lock:
            uses = [use for stage in plan.stages for use in names_of_stage(stage.config)]
            styles = [use.name for use in uses if use.kind is NameKind.STYLE]
            styled = self._lists.prompts_of_styles(styles) if styles else ()
            for text in (*prompts, *styled):
                uses += named_in_text(text, "prompts")
            files = {UsedFile.of(use.kind, use.name) for use in uses
                     if use.kind in _HASHED and not is_known_everywhere(use)}  # fmt: skip
            # Answers show the hashes of LoRAs that the list has; it is refreshed without waiting.
            self._refresh({file.kind for file in files if file.kind} & {NameKind.LORA})
            found = _merged([self._listed_at(file) for file in files])
            return {key: digits for key, digits in sorted(found.items()) if digits}

    def _present_versions(self, config: StageConfig) -> Mapping[str, str | None]:
        """The versions in the last answers, or else those that the server reports, asked once."""
        if isinstance(config, UpscaleConfig):
            return {}  # answers of /extra-single-image show none
        ask = {SERVER_VERSION: self._lists.version}
        if isinstance(config, AdetailerConfig):
            ask[_DETAILER_VERSION] = self._lists.detailer_version
        for name in ask.keys() - self._versions.keys():
            self._versions[name] = ask[name]()
        return {name: self._versions[name] for name in ask}

    def _doubtful(self, files: Iterable[UsedFile]) -> Mapping[str, None]:
        """Entries for the lists that the server did not read again: their hashes may be outdated.

        A list is left out if answers have shown the hashes of all of its files.
        """
        kinds = {
            file.kind
            for file in files
            if file.kind and file.kind in self._lists.not_refreshed and not self._is_answered(file)
        }
        return {f"{KINDS[kind].plural}, which the server did not read again": None
                for kind in sorted(kinds)}  # fmt: skip

    def _is_answered(self, file: UsedFile) -> bool:
        return bool(self._answered.get(_place(file, self._listed_at(file)[0])))

    def _files(self, config: StageConfig) -> list[UsedFile]:
        files = [*self._used.of_stage(config, self._options() or {})]
        if None in config.checkpoints():
            files.append(UsedFile.of(NameKind.CHECKPOINT, _MODEL_OF_SERVER))
        return files

    def _present(self, file: UsedFile) -> tuple[str, str]:
        """The key of a file, and its hash from the last answer or else from the list."""
        key, digits = self._listed_at(file)
        return key, self._answered.get(_place(file, key)) or digits

    def _refresh(self, kinds: set[NameKind]) -> None:
        """Have the server read its files again, once a kind: its lists miss a replaced file."""
        for kind in kinds - self._fresh:
            self._fresh.add(kind)
            try:
                is_newer = self._lists.refresh(kind)
            except BackendError:
                self._stale.add(kind)  # It is busy; an answer may show the hash later.
                continue
            if is_newer:
                label = UsedFile.of(kind, "").label
                shown = self._answered.items()
                self._answered = {place: it for place, it in shown if place[0] != label}
                self._listed.clear()

    def _listed_at(self, file: UsedFile) -> tuple[str, str]:
        """The key of a file, and its hash in the list of its kind."""
        if file not in self._listed:
            self._listed[file] = self._looked_up(file)
        return self._listed[file]

    def _looked_up(self, file: UsedFile) -> tuple[str, str]:
        kind, name = file.kind, file.name
        if kind is None:
            return f"{file.label} {name}", ""
        if kind is NameKind.STYLE:
            texts = [*self._lists.prompts_of_styles([name])]
            return f"{file.label} {name}", _digits_of(texts) if texts else ""
        if kind is NameKind.CHECKPOINT and name == _MODEL_OF_SERVER:
            name = self._model_of_server()
        if kind in (NameKind.VAE, NameKind.MODULE):
            return f"{file.label} {vae_stem(name)}", ""
        known = self._lists.names(kind) if kind in _HASHED else None
        found = [entry for entry in known or () if name in entry.forms]
        if not found and known and (alike := entry_of(known, name)):
            found = [alike]
        digits = {entry.digits for entry in found}
        is_certain = len(digits) == 1 and kind not in self._stale
        plain = found[0].name if len(found) == 1 else name
        if kind is NameKind.CHECKPOINT:
            plain = without_suffix(plain)
        return f"{file.label} {plain}", digits.pop() if is_certain else ""

    def _model_of_server(self) -> str:
        """The checkpoint that the server loads where a request names none; "" if not known."""
        options = self._lists.answer(OPTIONS, noted=False)
        found = options.get("sd_model_checkpoint") if isinstance(options, Mapping) else None
        return found if isinstance(found, str) else _MODEL_OF_SERVER


def _place(file: UsedFile, key: str) -> tuple[str, str]:
    """The name of a file in answers: the stem of a model, a LoRA as the prompt names it."""
    if file.kind is NameKind.CHECKPOINT:
        return file.label, file_of(key.partition(" ")[2])
    return file.label, file.name.replace(",", "")


def _answered(info: Mapping[str, Any]) -> Mapping[tuple[str, str], str]:
    """The hashes in an answer, by kind and name; a network without a hash has ""."""
    extra = extra_parameters(info)
    titles = [_TITLE.fullmatch(str(extra.get(name))) for name in ("Refiner", "Hires checkpoint")]
    shown = [("model", stem(title[1]), title[2]) for title in titles if title]
    shown.append(("model", stem(info.get("sd_model_name")), info.get("sd_model_hash")))
    models = _merged(((label, name), known_digits(digits)) for label, name, digits in shown)
    networks = (
        ((kind.value, found[1].strip()), known_digits(found[2]))
        for kind, name in HASHES.items()
        for found in _NETWORK.finditer(str(extra.get(name) or ""))
    )
    return {place: digits for place, digits in models.items() if digits} | _merged(networks)


def _merged(pairs: Iterable[tuple[Key, str]]) -> dict[Key, str]:
    """The hashes by key, "" where one key has several."""
    merged: dict[Key, str] = {}
    for key, digits in pairs:
        merged[key] = digits if merged.get(key, digits) == digits else ""
    return merged


def _shown_versions(info: Mapping[str, Any]) -> Mapping[str, str]:
    """The exact versions of the server and of ADetailer, as far as an answer shows them."""
    texts = infotext_values(info)
    found = {
        SERVER_VERSION: info.get("version") or texts.get("Version"),
        _DETAILER_VERSION: extra_parameters(info).get(_DETAILER) or texts.get(_DETAILER),
    }
    return {name: it.strip() for name, it in found.items() if isinstance(it, str) and it.strip()}


def _loaded(info: Mapping[str, Any]) -> Iterator[str]:
    """The keys of the VAE and of the modules that an answer shows."""
    if isinstance(info.get("sd_vae_name"), str):
        yield f"{NameKind.VAE} {vae_stem(info['sd_vae_name'])}"
    for name, value in infotext_values(info).items():
        is_module = name.startswith(("Module ", "Hires Module "))
        if is_module and value not in KINDS[NameKind.MODULE].everywhere:
            yield f"{NameKind.MODULE} {vae_stem(value)}"


def _digits_of(texts: Sequence[str]) -> str:
    return known_digits(sha256(msgspec.json.encode(texts)).hexdigest())
