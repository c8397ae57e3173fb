"""Images that were made before: found, proved to be the same request, and copied."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ...events.errors import LogCorruptError, RunNotFoundError
from ...events.log.reader import read_log
from ...events.log.timeline import FileTimeline
from ...events.model import (
    Artifact,
    BackendDescription,
    CallCompleted,
    CallRequested,
    CallReused,
    ImagesRemoved,
    ReuseOrigin,
    RunOpened,
    RunResumed,
    StageEvent,
)
from ..config.schema import Reuse
from ..ports import FileHashes, ReuseIndex
from ..stages.stage import StageConfig

OF_ANOTHER_GROUP = "it is of another group"
_OPTIONS = "options"
"""Stands among the files that were not checked for the options of the server."""
_RUNS_KEPT = 64
"""Runs whose calls are kept in mind: a variant usually reuses images of few others."""


class NoIndex:
    """The index of a run that uses no image again."""

    def refresh(self) -> None:
        """Nothing is to be read."""

    def find(self, request_sha256: str) -> Sequence[Path]:
        """No run."""
        del request_sha256
        return ()


class OneRun:
    """The index of a comparison with one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def refresh(self) -> None:
        """Nothing is to be read."""

    def find(self, request_sha256: str) -> Sequence[Path]:
        """The run."""
        del request_sha256
        return (self._folder,)


class RunIdentity(NamedTuple):
    """The run that looks for images: its group and its parent, and what it works with."""

    run_id: str
    group_id: str | None
    parent_run_id: str | None
    backend: BackendDescription


class EarlierAnswer(NamedTuple):
    """An answer to an equal request: its images, in the run folder ``folder``."""

    folder: Path
    artifacts: tuple[Artifact, ...]
    info: Mapping[str, Any]
    origin: ReuseOrigin
    not_checked: tuple[str, ...] = ()


class EarlierImages:
    """Finds answers to equal requests in other runs. Safe from any thread.

    What ``index`` says is proved by the log of the run that it names.
    """

    def __init__(
        self, run: RunIdentity, mode: Reuse, index: ReuseIndex, hashes: FileHashes
    ) -> None:
        self._run = run
        self._mode = mode
        self._index = index
        self._hashes = hashes
        self._lock = threading.Lock()
        self._known: OrderedDict[Path, _EarlierRun | None] = OrderedDict()

    @property
    def mode(self) -> Reuse:
        """Of which runs images may be used."""
        return self._mode

    def find(self, request_sha256: str, config: StageConfig) -> Iterator[EarlierAnswer]:
        """The answers to equal requests that may be used, the most likely first.

        Whether their files are still there is not known.
        """
        return (one for one, refusal in self.look(request_sha256, config) if not refusal)

    def look(self, request_sha256: str, config: StageConfig) -> Iterator[tuple[EarlierAnswer, str]]:
        """The answers to equal requests, each with the reason why it must not be used, or ""."""
        found: list[tuple[EarlierAnswer, str]] = []
        with self._lock:
            for folder in self._index.find(request_sha256):
                run = self._read(folder)
                if run is None or run.opened.run_id == self._run.run_id:
                    continue
                try:
                    one = run.answer(request_sha256)
                except (LogCorruptError, OSError):  # altered, or moved, since it was read
                    continue
                if one is not None:
                    comparison = self.compare(run, one, config)
                    answer = one.answer._replace(not_checked=comparison.not_checked)
                    found.append((answer, comparison.refusal))
        return iter(found)

    def compare(self, run: _EarlierRun, found: _Found, config: StageConfig) -> Comparison:
        """Whether an answer was made under the same conditions as one would be now."""
        now, then = self._run.backend, found.backend
        is_near = self._is_near(run.opened)
        if found.is_removed:
            return Comparison("its image was removed on purpose")
        if not is_near and self._mode is not Reuse.ALL:
            return Comparison(OF_ANOTHER_GROUP)
        for name in ("kind", "product", "version"):
            if getattr(now, name) != getattr(then, name):
                return Comparison(f"{name} {getattr(then, name)} -> {getattr(now, name)}")
        is_trusted = is_near and now.url == then.url
        is_open = msgspec.UNSET in (now.options, then.options)
        if not is_open and now.options != then.options:
            return Comparison("options of the server have changed")
        if (is_open or _OPTIONS in found.not_checked) and not is_trusted:
            return Comparison("the options of the server were not recorded")
        return self._compare_files(found, config, is_trusted=is_trusted)

    def _compare_files(self, found: _Found, config: StageConfig, *, is_trusted: bool) -> Comparison:
        shown = self._hashes.shown(config, found.answer.info)
        is_cut = bool(found.answer.info.get("info_cut"))
        listed = found.backend.files or {}
        then = {**listed, **shown}
        # A server may have used files that the request does not name.
        now = {**dict.fromkeys(shown), **self._hashes.reported(config)}
        is_open = msgspec.UNSET in (self._run.backend.options, found.backend.options)
        open_names = [_OPTIONS] if is_open or _OPTIONS in found.not_checked else []
        for name, hash_now in now.items():
            hash_then = then.get(name, "")
            if hash_then and (hash_now == "" or (hash_now is None and name in listed)):
                # A server forgets the hash of a file that was replaced.
                return Comparison(f"the hash of {name} is not reported any more")
            if hash_now and hash_then and hash_now != hash_then:
                return Comparison(f"{name} has changed ({hash_then} -> {hash_now})")
            # A cut answer may have shown another hash than the list; and the run that used an
            # image again may know a hash that its maker did not know.
            is_proved = name in shown or not (is_cut or name in found.not_checked)
            if not (hash_now and hash_then and is_proved):
                open_names.append(name)
        if open_names and not is_trusted:
            return Comparison(f"no hash is reported of {', '.join(open_names)}")
        return Comparison("", tuple(open_names))

    def _is_near(self, opened: RunOpened) -> bool:
        same_group = self._run.group_id is not None and opened.group_id == self._run.group_id
        return same_group or opened.run_id == self._run.parent_run_id

    def _read(self, folder: Path) -> _EarlierRun | None:
        if folder in self._known:
            self._known.move_to_end(folder)
            return self._known[folder]
        try:
            run = _EarlierRun.read(folder)
        except (LogCorruptError, RunNotFoundError, OSError):
            run = None  # nothing of it can be proved
        self._known[folder] = run
        if len(self._known) > _RUNS_KEPT:
            self._known.popitem(last=False)
        return run


class Comparison(NamedTuple):
    """Why an answer cannot be used, "" if it can; and the files whose hashes are not known."""

    refusal: str
    not_checked: tuple[str, ...] = ()


class _Found(NamedTuple):
    """``not_checked`` is what was not known when the run itself used the answer again."""

    answer: EarlierAnswer
    backend: BackendDescription
    is_removed: bool
    not_checked: tuple[str, ...] = ()


class _EarlierRun:
    """The answered requests of a run, as its log has them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._opened: RunOpened | None = None
        self._timeline: FileTimeline | None = None
        self._pending: dict[str, str] = {}
        self._backend: BackendDescription | None = None
        self._answers: dict[str, tuple[int, BackendDescription]] = {}
        """By the digest of a request, the number of its last answer, and what made it."""
        self._removed: set[str] = set()

    @classmethod
    def read(cls, folder: Path) -> _EarlierRun:
        """Raises LogCorruptError, RunNotFoundError, OSError."""
        run = cls(folder)
        run._timeline = read_log(folder, run._take_all)
        return run

    @property
    def opened(self) -> RunOpened:
        """The run's first event."""
        assert self._opened is not None
        return self._opened

    def answer(self, request_sha256: str) -> _Found | None:
        """The last answer to a request, if the log has one."""
        if request_sha256 not in self._answers or self._timeline is None:
            return None
        seq, backend = self._answers[request_sha256]
        event = self._timeline[seq]
        not_checked: tuple[str, ...] = ()
        if isinstance(event, CallCompleted):
            origin = ReuseOrigin(run_id=event.run_id, call_id=event.call_id)
        elif isinstance(event, CallReused):
            origin, not_checked = event.origin, event.not_checked
        else:
            return None
        answer = EarlierAnswer(self.folder, event.artifacts, event.info, origin)
        is_removed = not self._removed.isdisjoint(one.path for one in event.artifacts)
        return _Found(answer, backend, is_removed, not_checked)

    def _take_all(self, events: Any) -> None:
        for event in events:
            self._take(event)

    def _take(self, event: StageEvent) -> None:
        match event:
            case RunOpened():
                self._opened, self._backend = event, event.backend
            case RunResumed():
                self._backend = event.backend
            case CallRequested():
                self._pending[event.call_id] = event.request_sha256
            case CallCompleted():
                digest = self._pending.pop(event.call_id, None)
                if digest is not None and self._backend is not None:
                    self._answers[digest] = (event.seq, self._backend)
            case CallReused():
                if self._backend is not None:
                    self._answers[event.request_sha256] = (event.seq, self._backend)
            case ImagesRemoved():
                self._removed.update(one.path for one in event.artifacts)
