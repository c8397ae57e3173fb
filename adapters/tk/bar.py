"""A frame with progress, what went wrong, and a button that cancels the run."""

from __future__ import annotations

import contextlib
import threading
import tkinter
from pathlib import Path
from tkinter import ttk

from ...events.errors import RunNotFoundError
from ...events.folds import replay
from ...events.log.lock import is_locked
from ...events.model import RunState, StageEvent
from ...events.subscriptions.subscription import Subscription, subscribe
from ...statemachine.errors import InvalidTransitionError
from ...statemachine.files.run_folder import CancelOrder, RunFolder
from ...statemachine.run.controller import PipelineController
from ..projections.status import RunStatus, StatusBar
from ..projections.status.status import shown
from .labels import ElidedLabel, WrappedLabel, bold
from .loop import TkLoop

_LOOK_EVERY_MS = 100
_BAR_LENGTH = 280
"""Pixels, where nothing else says how wide the bar is."""
_TROUBLE = "#a40000"
"""Dark red; what kind of trouble it is stands before it in a word."""
_REASON = "Cancel was pressed"


class TkStatusBar(ttk.Frame):
    """Shows the runs of a controller, the present one and each that it starts later.

    Without a controller, and beside it, ``show`` shows one run, whoever runs it. The button
    cancels the run that is shown: by the controller, or by asking the process that runs it.
    Make it on Tk's thread and forget about it: it ends with its window. ``loop`` makes calls
    of other threads on Tk's; ``status`` is what is shown now.

    Config errors are of this process, whichever controller they come from.
    """

    def __init__(self, parent: tkinter.Misc, controller: PipelineController | None = None) -> None:
        super().__init__(parent, padding=8)
        self.loop = TkLoop(self)
        self._controller = controller
        self._model = StatusBar()
        self._folder: Path | None = None
        self._events: Subscription | None = None
        self._is_cancelling = False
        self._notice = ""
        self._build()
        self._timer = self.after(0, self._refresh)
        self.bind("<Destroy>", self._end, add=True)
        if controller is not None:
            self._subscribe(controller)

    @property
    def status(self) -> RunStatus:
        """How far the run is now."""
        return self._model.snapshot()

    def show(self, run: Path | str) -> None:
        """Show the run in this folder from its log, and go on with it as it grows.

        Raises RunNotFoundError, LogCorruptError.
        """
        folder = Path(run)
        model = StatusBar()
        events = subscribe(model.take_event, folder=folder, from_seq=0, on_step=model.take_step)
        if self._events is not None:
            self._events.close(timeout_s=0)
        self._events, self._model, self._folder = events, model, folder
        self._is_cancelling, self._notice = False, ""

    def cancel(self) -> None:
        """Stop the run that is shown, as the button does; its finished images are kept."""
        if self._folder is not None and not self._is_cancelling:
            self._is_cancelling = True
            # A slow disk may not stop the window: the order is made durable first.
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
        )
        if (run_id := controller.current_run_id) is not None:
            self._show_own(controller, run_id)

    def _show_own(self, controller: PipelineController, run_id: str) -> None:
        """Show a run of this process; one that is shown already goes on where it was."""
        folder = controller.runs / run_id
        if self._folder is None or self._folder.resolve() != folder.resolve():
            self.show(folder)
        self._model.expects_steps = True
        self._is_cancelling, self._notice = False, ""

    def _take_config_error(self, message: str) -> None:
        self._notice = ""
        self._model.take_config_error(message)

    def _order_cancel(self, folder: Path) -> None:
        """Runs on a thread of its own."""
        try:
            objection = self._ask_to_stop(folder)
        except Exception as error:  # noqa: BLE001 - it is shown, whatever it is
            objection = f"Error: the run cannot be cancelled: {error}"
        if objection:
            self.tell(objection)
            self._is_cancelling = False

    def _ask_to_stop(self, folder: Path) -> str:
        """What there is to be said against it, if anything."""
        controller, run_id = self._controller, self.status.run_id
        if controller is not None and controller.current_run_id == run_id:
            # It may end by itself in this very moment, which is as good.
            with contextlib.suppress(RunNotFoundError, InvalidTransitionError):
                controller.cancel(run_id, reason=_REASON)
        elif is_locked(folder):
            RunFolder(folder).order_cancel(CancelOrder(reason=_REASON))
        elif replay(folder).state == RunState.RUNNING:
            return "Nobody runs this run any more; it can be resumed."
        return ""

    def _build(self) -> None:
        self._headline = WrappedLabel(self, font=bold(self))
        self._button = ttk.Button(self, text="Cancel", command=self.cancel, state="disabled")
        self._bar = ttk.Progressbar(self, maximum=100.0, length=_BAR_LENGTH)
        self._percent = ttk.Label(self, width=5, anchor="e")
        self._detail = WrappedLabel(self)
        self._trouble = ElidedLabel(self, foreground=_TROUBLE)
        self._headline.grid(row=0, column=0, columnspan=2, sticky="ew")
        self._bar.grid(row=1, column=0, sticky="ew", pady=6)
        self._percent.grid(row=1, column=1, sticky="e")
        self._detail.grid(row=2, column=0, sticky="ew")
        self._button.grid(row=2, column=1, sticky="ne", padx=(8, 0))
        self._trouble.grid(row=3, column=0, columnspan=2, sticky="ew", pady=(4, 0))
        self._trouble.grid_remove()
        self.columnconfigure(0, weight=1)

    def _refresh(self) -> None:
        self._timer = self.after(_LOOK_EVERY_MS, self._refresh)
        self._draw()

    def _draw(self) -> None:
        now = self.status
        self._headline.set_text(now.headline)
        self._percent["text"] = now.percent
        self._detail.set_text(now.detail)
        self._trouble.set_text(self._notice or self._loss() or now.trouble)
        is_running = now.state == RunState.RUNNING
        self._is_cancelling = self._is_cancelling and is_running
        self._draw_bar(now, is_running=is_running)
        is_stopping = is_running and (self._is_cancelling or now.stopping is not None)
        self._button["text"] = "Stopping..." if is_stopping else "Cancel"
        self._button["state"] = "normal" if is_running and not is_stopping else "disabled"

    def _loss(self) -> str:
        """Why the run is followed no more, if that is so: its log cannot be read."""
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
