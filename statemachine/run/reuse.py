"""Images that were made before: found, proved to be the same request, and copied."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
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
from ..ports import FileHashes
from ..stages.stage import StageConfig

OF_ANOTHER_GROUP = "it is of another group"
_OPTIONS = "options"
"""Stands among the files that were not checked for the options of the server."""
_RUNS_KEPT = 64
"""Runs whose calls are kept in mind: a variant usually reuses images of few others."""


FindRuns = Callable[[str], Sequence[Path]]
"""By the digest of a request, the folders of runs that may have an answer; see ``ReuseIndex``."""


def no_runs(_request_sha256: str) -> Sequence[Path]:
    """Of a run that uses no image again."""
    return ()


class RunIdentity(NamedTuple):
    """The run that looks for images: its group and its parent, and what it works with."""

    run_id: str
    group_id: str | None
    parent_run_id: str | None
    backend: BackendDescription


class EarlierAnswer(NamedTuple):
    """An answer to an equal request: its images, in the run folder ``folder``.

    ``refusal`` is why they must not be used, "" if they may. ``not_checked`` are files whose hashes
    are not known: now, or when the run itself used the images again.
    """

    folder: Path
    artifacts: tuple[Artifact, ...]
    info: Mapping[str, Any]
    origin: ReuseOrigin
    backend: BackendDescription
    not_checked: tuple[str, ...] = ()
    refusal: str = ""


class EarlierImages:
    """Finds answers to equal requests in other runs. Safe from any thread.

    ``find_runs`` says where to look; the log of that run proves it.
    """

    def __init__(
        self, run: RunIdentity, mode: Reuse, find_runs: FindRuns, hashes: FileHashes
    ) -> None:
        self._run = run
        self._mode = mode
        self._find_runs = find_runs
        self._hashes = hashes
        self._lock = threading.Lock()
        self._known: OrderedDict[Path, _EarlierRun | None] = OrderedDict()

    @property
    def mode(self) -> Reuse:
        """Of which runs images may be used."""
        return self._mode

    def find(self, request_sha256: str, config: StageConfig) -> list[EarlierAnswer]:
        """The answers to equal requests, the most likely first, also those that are refused.

        Whether their files are still there is not known.
        """
        found: list[EarlierAnswer] = []
        with self._lock:
            for folder in self._find_runs(request_sha256):
                run = self._read(folder)
                if run is None or run.opened.run_id == self._run.run_id:
                    continue
                try:
                    one = run.answer(request_sha256)
                except (LogCorruptError, OSError):  # altered, or moved, since it was read
                    continue
                if one is not None:
                    found.append(
                        self._compared(one, is_near=self._is_near(run.opened), config=config)
                    )
        return found

    def _compared(
        self, found: EarlierAnswer, *, is_near: bool, config: StageConfig
    ) -> EarlierAnswer:
        """An answer, with the reason if it was not made as a request would be answered now."""
        now, then = self._run.backend, found.backend
        if found.refusal:
            return found
        if not is_near and self._mode is not Reuse.ALL:
            return found._replace(refusal=OF_ANOTHER_GROUP)
        for name in ("kind", "product", "version"):
            if getattr(now, name) != getattr(then, name):
                changed = f"{name} {getattr(then, name)} -> {getattr(now, name)}"
                return found._replace(refusal=changed)
        is_trusted = is_near and not {*now.urls}.isdisjoint(then.urls)
        is_open = msgspec.UNSET in (now.options, then.options)
        if not is_open and now.options != then.options:
            return found._replace(refusal="options of the server have changed")
        if (is_open or _OPTIONS in found.not_checked) and not is_trusted:
            return found._replace(refusal="the options of the server were not recorded")
        return self._with_files_compared(found, config, is_trusted=is_trusted)

    def _with_files_compared(
        self, found: EarlierAnswer, config: StageConfig, *, is_trusted: bool
    ) -> EarlierAnswer:
        shown = self._hashes.shown(config, found.info)
        is_cut = bool(found.info.get("info_cut"))
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
                return found._replace(refusal=f"the hash of {name} is not reported any more")
            if hash_now and hash_then and hash_now != hash_then:
                return found._replace(refusal=f"{name} has changed ({hash_then} -> {hash_now})")
            # A cut answer may have shown another hash than the list; and the run that used an
            # image again may know a hash that its maker did not know.
            is_proved = name in shown or not (is_cut or name in found.not_checked)
            if not (hash_now and hash_then and is_proved):
                open_names.append(name)
        if open_names and not is_trusted:
            return found._replace(refusal=f"no hash is reported of {', '.join(open_names)}")
        return found._replace(not_checked=tuple(open_names))

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

    def answer(self, request_sha256: str) -> EarlierAnswer | None:
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
        is_removed = not self._removed.isdisjoint(one.path for one in event.artifacts)
        refusal = "its image was removed on purpose" if is_removed else ""
        return EarlierAnswer(
            self.folder, event.artifacts, event.info, origin, backend, not_checked, refusal
        )

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
