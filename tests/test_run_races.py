"""Runs that are stopped, doubled or read in the middle of something."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import pytest
from stagewright.adapters import PillowInputReader
from stagewright.events import (
    CallCompleted,
    CancelMode,
    CancelRequested,
    EventRecorder,
    LifecycleChanged,
    MemoryEventLog,
    RunState,
    StageEvent,
    iterate,
    replay,
    signals,
    subscribe,
)
from stagewright.events.folds import Fold
from stagewright.events.log.kind import LOG_NAME, RUN_LOG
from stagewright.events.log.verified_scan import RecordScan
from stagewright.statemachine import (
    BackendError,
    CancelToken,
    GenerateAnswer,
    GenerateRequest,
    GenerationCancelled,
    InvalidTransitionError,
    PipelineController,
)
from stagewright.statemachine.files.run_folder import CancelOrder, RunFolder
from stagewright.statemachine.run.journal import RunJournal

from .support import START, ScriptedBackend, controller, document, memory_log, png
from .unreadable import folder_of_anybody, program_of_anybody

LOOK_TWICE = """
from pathlib import Path
from stagewright.statemachine.files.run_folder import RunFolder

folder = Path.cwd()
folder.chmod(0)
print(RunFolder(folder).cancel_order())
folder.chmod(0o700)
print(RunFolder(folder).cancel_order().reason)
"""


class StandingClock:
    """A clock that shows one moment only."""

    def now(self) -> datetime:
        return START

    def monotonic_ms(self) -> float:
        return 0.0


def test_a_run_never_takes_the_folder_of_another(tmp_path: Path) -> None:
    """Two runs that draw the same name: the first stays whole, the second gets another name."""
    draws = iter([7, 7, 8])
    first = controller(tmp_path, ScriptedBackend(), clock=StandingClock(), random_below=lambda _: 7)
    kept = first.start(document()).wait(30)
    second = controller(
        tmp_path, ScriptedBackend(), clock=StandingClock(), random_below=lambda _: next(draws)
    )
    made = second.start(document()).wait(30)
    assert made.run_id != kept.run_id
    assert replay(tmp_path / kept.run_id) == kept


def test_a_name_that_is_always_taken_is_an_error_and_removes_nothing(tmp_path: Path) -> None:
    """LogWriteError after some tries; the run that has the name is untouched."""
    named: dict[str, Any] = {"clock": StandingClock(), "random_below": lambda _: 7}
    kept = controller(tmp_path, ScriptedBackend(), **named).start(document()).wait(30)
    with pytest.raises(Exception, match="cannot be made"):
        controller(tmp_path, ScriptedBackend(), **named).start(document())
    assert replay(tmp_path / kept.run_id) == kept


class GrowingFile:
    """A log file to which a writer adds right after a reader has come to its end."""

    def __init__(self, stream: BinaryIO, path: Path, more: bytes) -> None:
        self._stream = stream
        self._path = path
        self._more = more

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        with open(self._path, "ab") as writer:
            writer.write(self._more)
        self._more = b""
        return data


@pytest.mark.parametrize("missing", [1, 2, 30, 100])
def test_a_log_that_grows_while_it_is_read_is_not_corrupt(tmp_path: Path, missing: int) -> None:
    """The incomplete tail that the reader saw is torn, whatever was written since."""
    data = memory_log().to_bytes()
    path = tmp_path / LOG_NAME
    path.write_bytes(data[:-missing])
    with path.open("rb") as stream:
        growing: Any = GrowingFile(stream, path, data[-missing:])
        scan = RecordScan(RUN_LOG, growing)
        events = [event for batch in scan.batches() for event in batch]
    assert scan.torn is not None
    assert len(events) == len(memory_log().timeline()) - 1


def test_words_that_are_no_unicode_do_not_keep_a_failure_out_of_the_log(tmp_path: Path) -> None:
    """A lone surrogate in a backend's error is recorded as an escape."""

    def script(_request: GenerateRequest, _cancel: CancelToken) -> None:
        raise BackendError("bad \ud800 words", endpoint="\udfff", detail="x" * 10**6)

    result = controller(tmp_path, ScriptedBackend(script)).start(document()).wait(30)
    assert result.state is RunState.ERROR
    assert result.error is not None
    assert result.error.message == "bad \\ud800 words"
    assert len(result.error.detail) < 10_000


@pytest.mark.parametrize(
    "error",
    [
        BackendError("connection reset", transient=True),
        BackendError("gone"),
        GenerationCancelled(""),
    ],
)
def test_what_fails_because_of_a_cancel_ends_in_cancelled(
    tmp_path: Path, error: BackendError
) -> None:
    """An interrupted request may fail in any way; the run is CANCELLED all the same."""
    holder: list[PipelineController] = []

    def script(request: GenerateRequest, cancel: CancelToken) -> None:
        holder[0].cancel(request.run_id, reason="by hand")
        assert cancel.cancelled
        raise error

    holder.append(controller(tmp_path, ScriptedBackend(script)))
    result = holder[0].start(document(images=3)).wait(30)
    assert result.state is RunState.CANCELLED


def test_the_backend_is_told_only_once_the_cancel_is_on_disk(tmp_path: Path) -> None:
    """When the token says so, the log holds CancelRequested; cancel.request goes after that."""
    seen: list[tuple[bool, bool]] = []

    def script(request: GenerateRequest, cancel: CancelToken) -> None:
        folder = RunFolder(tmp_path / request.run_id)
        folder.order_cancel(CancelOrder(reason="from elsewhere"))
        assert cancel.wait(20)
        recorded = any(isinstance(event, CancelRequested) for event in iterate(folder.path))
        seen.append((recorded, True))
        raise GenerationCancelled("stopped")

    result = controller(tmp_path, ScriptedBackend(script)).start(document()).wait(30)
    assert seen == [(True, True)]
    assert result.state is RunState.CANCELLED
    assert not (tmp_path / result.run_id / "cancel.request").exists()


def test_a_cancel_order_that_cannot_be_removed_still_cancels(tmp_path: Path) -> None:
    """A folder in its place stops the run once, cleanly."""

    def script(request: GenerateRequest, cancel: CancelToken) -> None:
        (tmp_path / request.run_id / "cancel.request").mkdir()
        assert cancel.wait(20)
        raise GenerationCancelled("stopped")

    result = controller(tmp_path, ScriptedBackend(script)).start(document()).wait(30)
    assert result.state is RunState.CANCELLED
    assert sum(isinstance(event, CancelRequested) for event in result.events) == 1


def test_a_second_order_to_cancel_is_obeyed_while_the_first_is_being_announced(
    tmp_path: Path,
) -> None:
    """`cancel --after-image`, then `cancel`: both are recorded, and the image is given up."""

    has_begun = threading.Event()

    def script(_request: GenerateRequest, cancel: CancelToken) -> None:
        has_begun.set()
        if not cancel.wait(20):
            raise BackendError("the second order was lost")
        raise GenerationCancelled("stopped")

    def order_again(event: StageEvent) -> None:
        if isinstance(event, CancelRequested) and event.mode is CancelMode.AFTER_IMAGE:
            RunFolder(tmp_path / event.run_id).order_cancel(CancelOrder(reason="hard"))

    with subscribe(order_again, CancelRequested, on="publisher"):
        handle = controller(tmp_path, ScriptedBackend(script)).start(document(images=3))
        assert has_begun.wait(20)  # before that, the first order alone ends the run
        RunFolder(handle.folder).order_cancel(
            CancelOrder(mode=CancelMode.AFTER_IMAGE, reason="soft")
        )
        result = handle.wait(60)
    assert result.state is RunState.CANCELLED
    orders = [event for event in result.events if isinstance(event, CancelRequested)]
    assert [(event.mode, event.reason) for event in orders] == [
        (CancelMode.AFTER_IMAGE, "soft"),
        (CancelMode.NOW, "hard"),
    ]
    assert not (handle.folder / "cancel.request").exists()


def test_an_endpoint_that_is_no_unicode_is_recorded_with_an_escape(tmp_path: Path) -> None:
    """A lone surrogate in the endpoint of an answer does not make a finished image unrecordable."""

    class OddEndpoint(ScriptedBackend):
        def generate_images(self, request: GenerateRequest, **named: Any) -> GenerateAnswer:
            answer = super().generate_images(request, **named)
            return msgspec.structs.replace(answer, endpoint="/odd\udfff")

    result = controller(tmp_path, OddEndpoint()).start(document()).wait(30)
    assert result.state is RunState.COMPLETED
    (completed,) = [event for event in result.events if isinstance(event, CallCompleted)]
    assert completed.endpoint == "/odd\\udfff"


@pytest.mark.parametrize(
    "order",
    ['{"mode":"now","reason":"Müller"}'.encode("latin-1"), b'{"x":' + b"[" * 60_000,
     b'{"mode":7}', b'{"mode":"after_image","reason":' + b"9" * 5000 + b"}", b"\0" * 100, b""],
    ids=["latin-1", "deep", "type", "number", "nul", "empty"],
)  # fmt: skip
def test_a_cancel_order_that_cannot_be_read_stops_the_run_now(tmp_path: Path, order: bytes) -> None:
    """It ends CANCELLED, as with an order that can be read."""

    def script(request: GenerateRequest, cancel: CancelToken) -> None:
        (tmp_path / request.run_id / "cancel.request").write_bytes(order)
        assert cancel.wait(20)
        raise GenerationCancelled("stopped")

    result = controller(tmp_path, ScriptedBackend(script)).start(document()).wait(30)
    assert (result.state, result.error) == (RunState.CANCELLED, None)


@pytest.mark.posix
def test_an_order_that_cannot_be_looked_for_is_found_at_the_next_look() -> None:
    """While the run's folder is closed to its own process there is no order, and no error."""
    with folder_of_anybody() as folder:
        RunFolder(folder).order_cancel(CancelOrder(reason="enough"))
        done = program_of_anybody(LOOK_TWICE, folder=folder)
    assert (done.stdout, done.stderr) == ("None\nenough\n", "")


def test_orders_of_several_processes_never_break_each_other(tmp_path: Path) -> None:
    """Two processes that write cancel.request at once always leave a whole one."""
    program = (
        "import sys; from pathlib import Path\n"
        "from stagewright.statemachine.files.run_folder import RunFolder, CancelOrder\n"
        "folder = RunFolder(Path(sys.argv[1]))\n"
        "order = CancelOrder(mode='after_image', reason='r' * 500)\n"
        "for _ in range(150): folder.order_cancel(order)\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    modes = set()
    while any(writer.poll() is None for writer in writers):
        if (order := RunFolder(tmp_path).cancel_order()) is not None:
            modes.add(order.mode)
    for writer in writers:
        _, errors = writer.communicate()
        assert (writer.returncode, errors) == (0, b"")
    assert modes == {CancelMode.AFTER_IMAGE}


class HeldLog(MemoryEventLog):
    """A log whose appends last until they are let go."""

    def __init__(self, appending: threading.Event, go_on: threading.Event) -> None:
        super().__init__("a-run")
        self.appends = 0
        self._appending, self._go_on = appending, go_on

    def append(self, event: StageEvent) -> None:
        self.appends += 1
        self._appending.set()
        assert self._go_on.wait(20)
        super().append(event)


def test_a_trigger_waits_for_the_one_that_is_being_recorded() -> None:
    """While one thread appends `start`, another thread's `start` waits, and is then refused."""
    appending, go_on, outcome = threading.Event(), threading.Event(), list[str]()
    log = HeldLog(appending, go_on)
    journal = RunJournal(log, Fold(), epoch=0, clock=StandingClock())

    def second() -> None:
        try:
            journal.move("start")
        except InvalidTransitionError:
            outcome.append("refused")

    first = threading.Thread(target=journal.move, args=("start",))
    first.start()
    assert appending.wait(20)
    other = threading.Thread(target=second)
    other.start()
    other.join(0.1)
    assert (log.appends, outcome) == (1, [])
    go_on.set()
    first.join()
    other.join()
    assert (log.appends, outcome) == (1, ["refused"])


def test_subscribers_see_a_cancel_behind_the_start(
    tmp_path: Path, recorded_events: EventRecorder
) -> None:
    """A cancel from the very callback of `start` comes second, as in the log."""
    runner = controller(tmp_path, ScriptedBackend())

    def take(run_id: str, event: LifecycleChanged) -> None:
        if event.trigger == "start":
            runner.cancel(run_id)

    with signals.lifecycle_changed.connected_to(take):
        result = runner.start(document(images=3)).wait(30)
    assert recorded_events.events == tuple(result.events)
    recorded_events.assert_nothing_lost()
    recorded_events.assert_lifecycle("IDLE", "RUNNING", "CANCELLED")


def test_an_input_that_changes_after_it_was_checked_is_refused(tmp_path: Path) -> None:
    """The copy must be what was checked; nothing is started and subscribers are told."""
    source = tmp_path / "in.png"
    source.write_bytes(png(1))
    runner = controller(tmp_path / "runs", ScriptedBackend())
    from stagewright.statemachine.config.inputs import resolve_config

    config = document("upscale", input_image=str(source))
    ready = resolve_config(config, inputs=PillowInputReader(), runs=tmp_path)
    source.write_bytes(b"no image at all")
    told: list[str] = []

    def take(_sender: None, message: str, **_: Any) -> None:
        told.append(message)

    with (
        signals.config_error.connected_to(take),
        pytest.raises(ValueError, match="changed after it had been checked"),
    ):
        runner.start(ready)
    assert len(told) == 1
    assert list((tmp_path / "runs").iterdir()) == []


def test_the_recorded_configuration_is_the_one_that_ran(tmp_path: Path) -> None:
    """A loaded configuration that a program changes is recorded as it was changed."""
    import msgspec
    from stagewright.statemachine.config.document import parse_document

    loaded = parse_document(document(seed=1))
    changed = msgspec.structs.replace(loaded, seed=99)
    result = controller(tmp_path, ScriptedBackend()).start(changed).wait(30)
    opened = json.loads(b"".join(result.json_parts()))["events"][0]
    assert opened["config"]["seed"] == 99
    assert opened["seeds"] == [99]
