"""A run's events as lines of text that are the same whenever the same thing happens."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from ..folds import recorded_stages
from ..model import Artifact, RunOpened, RunResumed, ServerDescription, StageEvent
from ..origins import servers_of

_ENVELOPE = frozenset({"v", "run_id", "seq", "ts"})
_MEASURED = frozenset({"duration_ms", "bytes", "offset"})
_FREE = frozenset({"config", "plan", "info", "metadata", "raw"})

_STAND_INS = {
    "call_id": "call",
    "sha256": "file",
    "source_sha256": "source",
    "request_sha256": "request",
    "head": "chain",
    "host": "host",
    "boot_id": "boot",
    "pid": "pid",
    "software": "software",
    "version": "version",
    "parent_run_id": "run",
    "run_id": "run",
    "server": "server",
}

_RUN_ID = re.compile(r"\b\d{8}T\d{6}\.\d{6}Z-[a-z0-9-]+?-[0-9a-f]{6}\b")
_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
_PROCESS = re.compile(r"\bpid \d{1,10}\b")
_SOFTWARE = re.compile(r"\b(stagewright(?: embedded)?) \d[\w.+-]*")
_PORT = re.compile(r"(//(?:127\.0\.0\.1|localhost|\[::1\])):\d+")
_BARE = re.compile(r"[\w.:/+-]+", re.ASCII)
_NO_WORD = re.compile(r"[+-]?\.?\d[\d.]*(?:[eE][+-]?\d+)?|true|false|null")
_NAME = r"[^\\/\s'\":,;]+"

_DEEPEST = 16


def timeline_lines(events: Iterable[StageEvent]) -> Iterator[str]:
    """One line for each event, and one more for each stage of the plan that a run opens with.

    A line has the run, the sequence number, the event's type, and those of its fields that
    are not at their default, in the order of ``docs/events.md``. Ids, digests, hosts, processes,
    versions and several servers of a run have stand-ins (see ``Normaliser``). Left out are times,
    durations and sizes of files, which differ every time, and the free tables ``config``, ``info``
    and ``metadata``.
    """
    writer = _Writer()
    for event in events:
        yield writer.line(event)
        if isinstance(event, RunOpened):
            yield from writer.stages(event.plan)


class _Writer:
    def __init__(self) -> None:
        self._normaliser = Normaliser()
        self._has_servers = False

    def line(self, event: StageEvent) -> str:
        if isinstance(event, RunOpened | RunResumed):
            self._has_servers = bool(servers_of(event.backend))
        run = self._normaliser.stand_in("run", event.run_id)
        head = f"{run} #{event.seq:<3} {type(event).__name__}"
        return " ".join([head, *self._fields(event)])

    def stages(self, plan: Mapping[str, Any]) -> Iterator[str]:
        shown = self._normaliser.shown
        for stage in recorded_stages(plan):
            source = shown(stage.get("input_source"))
            yield f"      {shown(stage['stage_id'])} from {source}: {shown(stage['config'])}"

    def _fields(self, part: msgspec.Struct) -> Iterator[str]:
        for name, shown_name, default in _told_fields(type(part)):
            value = getattr(part, name)
            if value == default or (name == "server" and not self._has_servers):
                continue
            is_server = name == "url" and isinstance(part, ServerDescription)
            yield f"{shown_name}={self._shown('server' if is_server else name, value)}"

    def _shown(self, name: str, value: Any) -> str:
        if name in _STAND_INS:
            return self._normaliser.stand_in(_STAND_INS[name], value)
        if isinstance(value, Artifact):
            return self._artifact(value)
        if isinstance(value, msgspec.Struct):
            return "{" + " ".join(self._fields(value)) + "}"
        if isinstance(value, tuple):
            # The inputs of a request are digests, those of a run are records.
            item = "source_sha256" if name == "inputs" and isinstance(value[0], str) else ""
            return "[" + ", ".join(self._shown(item, part) for part in value) + "]"
        return self._normaliser.shown(value)

    def _artifact(self, image: Artifact) -> str:
        """The path says which image it is, and its suffix of which kind."""
        file = self._shown("sha256", image.sha256)
        source = self._shown("source_sha256", image.source_sha256)
        path = self._normaliser.shown(image.path)
        return f"{path}({image.width}x{image.height} seed={image.seed} {file} {source})"


@cache
def _told_fields(kind: type[msgspec.Struct]) -> tuple[tuple[str, str, object], ...]:
    """The fields that are shown: the name, that in the log, and the default."""
    envelope = _ENVELOPE if issubclass(kind, StageEvent) else frozenset[str]()
    left_out = envelope | _MEASURED | _FREE
    fields = msgspec.structs.fields(kind)
    return tuple(
        (one.name, one.encode_name, one.default) for one in fields if one.name not in left_out
    )


class Normaliser:
    """Gives each id, digest, host and process a stand-in, in the order in which it meets them.

    The first run is ``run-1``, whatever its id, and stays ``run-1``: two runs of one
    configuration give the same text, and it still says what belongs to what.
    """

    def __init__(self) -> None:
        self._names: dict[str, dict[Hashable, str]] = {}
        self._own_paths = _own_paths()

    def stand_in(self, kind: str, value: Hashable) -> str:
        """``run-1`` for the first value of the kind ``run``, ``run-2`` for the next."""
        names = self._names.setdefault(kind, {})
        return names.setdefault(value, f"{kind}-{len(names) + 1}")

    def text(self, words: str) -> str:
        """``words`` with run ids, digests, versions, loopback ports and own folders replaced.

        Own folders are the working, the home and the temporary folder of this process: of a
        path in one of them the last name is left.
        """
        words = _RUN_ID.sub(lambda found: self.stand_in("run", found[0]), words)
        words = _DIGEST.sub(lambda found: self._digest(found[0]), words)
        words = _PROCESS.sub(lambda found: self.stand_in("pid", int(found[0][4:])), words)
        words = _SOFTWARE.sub(r"\1 <version>", words)
        words = _PORT.sub(r"\1:<port>", words)
        return self._own_paths.sub(lambda found: f"<folder>{found['last'] or ''}", words)

    def shown(self, value: object, *, depth: int = 0) -> str:
        """A JSON value in one line: keys sorted, text in quotes where it is no plain word."""
        if depth > _DEEPEST:
            return "..."
        if isinstance(value, Mapping):
            pairs = sorted((str(key), self.shown(value[key], depth=depth + 1)) for key in value)
            return "{" + " ".join(f"{_word(key)}={part}" for key, part in pairs) + "}"
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            return "[" + ", ".join(self.shown(part, depth=depth + 1) for part in value) + "]"
        if value is None or isinstance(value, bool):
            return {None: "null", True: "true", False: "false"}[value]
        return str(value) if isinstance(value, int | float) else _word(self.text(str(value)))

    def _digest(self, digest: str) -> str:
        known = (names[digest] for names in self._names.values() if digest in names)
        return next(known, None) or self.stand_in("digest", digest)


def _word(text: str) -> str:
    """``text`` bare where it is one plain word, else in quotes; never a control character."""
    if _BARE.fullmatch(text) and not _NO_WORD.fullmatch(text):
        return text
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(sign if sign.isprintable() else _escape(sign) for sign in plain) + '"'


def _escape(sign: str) -> str:
    return sign.encode("unicode_escape", "surrogatepass").decode("ascii")


def _own_paths() -> re.Pattern[str]:
    """Matches a path in a folder of this process; ``last`` is its last name, if it has one."""
    # The longest comes first, for one of them may lie in another.
    either = "|".join(re.escape(root) for root in sorted(_own_folders(), key=len, reverse=True))
    # Possessive, for a text of many paths would be searched again from each of them.
    return re.compile(rf"(?:{either})(?![\w.-])(?P<last>[\\/]+{_NAME})*+")


def _own_folders() -> Iterator[str]:
    found: list[Callable[[], Path]] = [Path.cwd, Path.home, lambda: Path(tempfile.gettempdir())]
    for find in found:
        # The working folder may be gone, and a user without a home is none of our business.
        with contextlib.suppress(OSError, RuntimeError):
            folder = find()
            yield from (str(one) for one in (folder, folder.resolve()) if one != Path(one.anchor))
