"""A Tk frame with the progress, the errors and a cancel button of a run."""

from __future__ import annotations

import contextlib
import threading
import tkinter
from pathlib import Path
from tkinter import ttk

from ...events.errors import LogCorruptError, RunNotFoundError
from ...events.folds import replay
from ...events.groups.log import GROUP_LOCK_NAME, GroupLogTail
from ...events.log.lock import is_locked
from ...events.log.reader import iterate
from ...events.model import RunOpened, RunState, StageEvent
from ...events.subscriptions.subscription import Subscription, subscribe
from ...statemachine.errors import InvalidTransitionError
from ...statemachine.files.run_folder import CancelOrder, RunFolder
from ...statemachine.groups.folder import group_folder
from ...statemachine.run.controller import PipelineController
from ..projections.status import RunStatus, StatusBar, group_history_in, history_in
from ..projections.status.status import shown
from .group_bar import GroupBar
from .labels import ElidedLabel, WrappedLabel, bold
from .loop import TkLoop

_REFRESH_MS = 100
_BAR_LENGTH = 280
"""The width of the bar in pixels, if the layout does not stretch it."""
_TROUBLE = "#a40000"
"""Dark red; the text itself begins with the kind of problem."""
_REASON = "Cancel was pressed"


class TkStatusBar(ttk.Frame):
    """Shows the present run of a controller and its group, if it has one, and each later run.

    ``show`` shows a run of any process, with or without a controller. The button cancels the
    shown run, or the group that runs it, through the controller or by a request to the process
    that executes it. Create
    the widget on Tk's thread; it ends with its window. ``loop`` runs calls of other threads on
    Tk's thread; ``status`` is the shown status.

    Config errors of all controllers of this process are shown.
    """

    def __init__(self, parent: tkinter.Misc, controller: PipelineController | None = None) -> None:
        super().__init__(parent, padding=8)
        self.loop = TkLoop(self)
        self._controller = controller
        self._model = StatusBar()
        self._group_model = StatusBar()
        """Shows the runs of this controller's groups, one after the other."""
        self._other_group: GroupLogTail | None = None
        """The log of the group of a shown run; it may be that of another process."""
        self._folder: Path | None = None
        self._events: Subscription | None = None
        self._is_cancelling = False
        self._notice = ""
        self._build()
        self._timer = self.after(0, self._refresh)
        self.bind("<Destroy>", self._end, add=True)
        if controller is not None:
            self._group_model = _model_in(controller.runs)
            self._subscribe(controller)

    @property
    def status(self) -> RunStatus:
        """The status of the run now."""
        return self._model.snapshot()

    def show(self, run: Path | str) -> None:
        """Show the run in this folder with its group, if any, and follow their logs.

        Raises RunNotFoundError, LogCorruptError.
        """
        folder = Path(run)
        self._follow(folder, _model_in(folder.resolve().parent))
        group_id = _group_of(folder)
        group = None if group_id is None else group_folder(folder.resolve().parent, group_id)
        if group is not None:
            self._other_group = GroupLogTail(group)

    def cancel(self) -> None:
        """Cancel the shown run and its group, as the button does; finished images are kept."""
        if self._folder is not None and not self._is_cancelling:
            self._is_cancelling = True
            # On its own thread, because the request is first made durable, which may take time.
            threading.Thread(target=self._order_cancel, args=(self._folder,), daemon=True).start()
            self._draw()

    def tell(self, message: str) -> None:
        """Show a message of the program until the next run starts; from any thread."""
        self._notice = shown(message)

    def _subscribe(self, controller: PipelineController) -> None:
        def take_start(event: StageEvent) -> None:
            if event.run_id == controller.current_run_id:
                self.loop(lambda: self._show_own(controller, event.run_id))

        self.loop.subscribe(
            take_start,
            transitions=["start"],
            on="publisher",
            on_config_error=self._take_config_error,
            on_group=self._group_model.take_group_event,
        )
        if (run_id := controller.current_run_id) is not None:
            self._show_own(controller, run_id)

    def _show_own(self, controller: PipelineController, run_id: str) -> None:
        """Show a run of this process; an already shown run continues."""
        folder = controller.runs / run_id
        if self._folder is None or self._folder.resolve() != folder.resolve():
            is_in_group = _group_of(folder) is not None
            self._follow(folder, self._group_model if is_in_group else StatusBar())
        self._model.expects_steps = True
        self._is_cancelling, self._notice = False, ""

    def _follow(self, folder: Path, model: StatusBar) -> None:
        """Show the run in this folder with ``model``, from its first event on."""
        events = subscribe(model.take_event, folder=folder, from_seq=0, on_step=model.take_step)
        if self._events is not None:
            self._events.close(timeout_s=0)
        self._events, self._model, self._folder = events, model, folder
        self._other_group = None
        self._is_cancelling, self._notice = False, ""

    def _take_config_error(self, message: str) -> None:
        self._notice = ""
        self._model.take_config_error(message)

    def _order_cancel(self, folder: Path) -> None:
        """Request the cancel; runs on its own thread."""
        try:
            objection = self._request_cancel(folder)
        except Exception as error:  # noqa: BLE001 - every error is shown
            objection = f"Error: the run cannot be cancelled: {error}"
        if objection:
            self.tell(objection)
            self._is_cancelling = False

    def _request_cancel(self, folder: Path) -> str:
        """Request the cancel; returns a message if the run is not running."""
        now, controller = self.status, self._controller
        own = () if controller is None else (controller.current_group_id, controller.current_run_id)
        for shown_id in (now.group_id, now.run_id):
            if controller is not None and shown_id and shown_id in own:
                # It may have ended by itself in the meantime.
                with contextlib.suppress(RunNotFoundError, InvalidTransitionError):
                    controller.cancel(shown_id, reason=_REASON)
                return ""
        group = group_folder(folder.resolve().parent, now.group_id) if now.group_id else None
        if group is not None and is_locked(group, GROUP_LOCK_NAME):
            RunFolder(group).order_cancel(CancelOrder(reason=_REASON))
        elif is_locked(folder):
            RunFolder(folder).order_cancel(CancelOrder(reason=_REASON))
        elif replay(folder).state == RunState.RUNNING:
            return "The process of this run died; it can be resumed."
        return ""

    def _build(self) -> None:
        self._headline = WrappedLabel(self, font=bold(self))
        self._button = ttk.Button(self, text="Cancel", command=self.cancel, state="disabled")
        self._bar = ttk.Progressbar(self, maximum=100.0, length=_BAR_LENGTH)
        self._percent = ttk.Label(self, width=5, anchor="e")
        self._detail = WrappedLabel(self)
        self._group = GroupBar(self, _BAR_LENGTH)
        self._trouble = ElidedLabel(self, foreground=_TROUBLE)
        self._headline.grid(row=0, column=0, columnspan=2, sticky="ew")
        self._bar.grid(row=1, column=0, sticky="ew", pady=6)
        self._percent.grid(row=1, column=1, sticky="e")
        self._detail.grid(row=2, column=0, sticky="ew")
        self._button.grid(row=2, column=1, sticky="ne", padx=(8, 0))
        self._group.grid(row=3, column=0, columnspan=2, sticky="ew", pady=(4, 0))
        self._trouble.grid(row=4, column=0, columnspan=2, sticky="ew", pady=(4, 0))
        self._group.grid_remove()
        self._trouble.grid_remove()
        self.columnconfigure(0, weight=1)

    def _refresh(self) -> None:
        self._timer = self.after(_REFRESH_MS, self._refresh)
        self._look_at_group()
        self._draw()

    def _look_at_group(self) -> None:
        """Take what is new in the log of another process's group, once it has been loaded."""
        if self._other_group is not None and self.status.group_id:
            # What is known of the group stays shown; the log of the run is shown as well.
            with contextlib.suppress(RunNotFoundError, LogCorruptError, OSError):
                for event in self._other_group.read():
                    self._model.take_group_event(event)

    def _draw(self) -> None:
        now = self.status
        self._headline.set_text(now.headline)
        self._percent["text"] = now.percent
        self._detail.set_text(now.detail)
        self._group.show(now)
        self._trouble.set_text(self._notice or self._log_error() or now.trouble)
        is_running = now.state == RunState.RUNNING or self._runs_group(now.group_id)
        self._is_cancelling = self._is_cancelling and is_running
        self._draw_bar(now, is_running=is_running)
        is_stopping = is_running and (self._is_cancelling or now.stopping is not None)
        self._button["text"] = "Stopping..." if is_stopping else "Cancel"
        self._button["state"] = "normal" if is_running and not is_stopping else "disabled"

    def _runs_group(self, group_id: str) -> bool:
        """Whether the controller runs this group; between two variants there is no run."""
        current = None if self._controller is None else self._controller.current_group_id
        return current is not None and current == group_id

    def _log_error(self) -> str:
        """The error that ended following the log, if any."""
        error = None if self._events is None else self._events.error
        return "" if error is None else shown(f"Error: {error}")

    def _draw_bar(self, now: RunStatus, *, is_running: bool) -> None:
        is_unknown = is_running and now.percentage is None
        if is_unknown != (str(self._bar["mode"]) == "indeterminate"):
            self._bar["mode"] = "indeterminate" if is_unknown else "determinate"
            (self._bar.start if is_unknown else self._bar.stop)()
        if not is_unknown:
            self._bar["value"] = 0.0 if now.config_error else now.percentage or 0.0

    def _end(self, event: tkinter.Event[tkinter.Misc]) -> None:
        if event.widget is self:
            self.after_cancel(self._timer)
            if self._events is not None:
                self._events.close(timeout_s=0)


def _model_in(runs: Path) -> StatusBar:
    """The status of a run below ``runs`` and of its group, with what they recorded before."""
    return StatusBar(history=history_in(runs), group_history=group_history_in(runs))


def _group_of(folder: Path) -> str | None:
    """The id of the group of the run in this folder. Raises RunNotFoundError, LogCorruptError."""
    opened = next(iterate(folder), None)
    return opened.group_id if isinstance(opened, RunOpened) else None
