"""Runs calls of any thread on Tk's thread, the only one that may use widgets."""

from __future__ import annotations

import time
import tkinter
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from ...events.model import StageEvent
from ...events.subscriptions.subscription import Subscription, subscribe

_REST_MS = 40
"""The polling interval without calls."""
_AT_ONCE_S = 0.02
"""How long calls may block Tk at a time."""


class TkLoop:
    """Runs calls on Tk's thread in the order in which they are given, by any thread.

    Use it for ``subscribe(..., on=loop)``. It ends with ``widget``: waiting calls are dropped,
    later calls raise RuntimeError, and subscriptions made by ``subscribe`` are closed. Create
    it on Tk's thread; calls wait until the main loop runs.
    """

    def __init__(self, widget: tkinter.Misc) -> None:
        self._widget = widget
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._subscriptions: list[Subscription] = []
        self._is_over = False
        self._timer = widget.after(_REST_MS, self._work)
        widget.bind("<Destroy>", self._end, add=True)

    def __call__(self, call: Callable[[], object]) -> None:
        """Run ``call`` soon; from any thread. Raises RuntimeError once the widget is destroyed."""
        if self._is_over:
            raise RuntimeError("the window is gone")
        self._calls.put(call)

    def subscribe(
        self, receiver: Callable[[Any], object], *types: type[StageEvent], **options: Any
    ) -> Subscription:
        """Subscribe until the widget is destroyed, ``on`` this loop unless ``options`` differ.

        Takes the options of ``stagewright.events.subscribe`` and raises the same errors.
        """
        subscription = subscribe(receiver, *types, **{"on": self, **options})
        self._subscriptions.append(subscription)
        return subscription

    def _work(self) -> None:
        until = time.monotonic() + _AT_ONCE_S
        pause = _REST_MS
        try:
            while time.monotonic() < until and not self._is_over:
                try:
                    call = self._calls.get_nowait()
                except Empty:
                    break
                pause = 1
                call()
        finally:
            if not self._is_over:
                self._timer = self._widget.after(pause, self._work)

    def _end(self, event: tkinter.Event[tkinter.Misc]) -> None:
        # A window also receives the event for each widget in it.
        if event.widget is self._widget and not self._is_over:
            self._is_over = True
            self._widget.after_cancel(self._timer)
            for subscription in self._subscriptions:
                subscription.close(timeout_s=0)
