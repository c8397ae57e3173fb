"""Calls from any thread, made on the thread of Tk: widgets may be touched nowhere else."""

from __future__ import annotations

import time
import tkinter
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from ...events.model import StageEvent
from ...events.subscriptions.subscription import Subscription, subscribe

_REST_MS = 40
"""How often calls are looked for while none comes."""
_AT_ONCE_S = 0.02
"""How long calls may keep Tk from its other work."""


class TkLoop:
    """Makes calls on Tk's thread, in the order in which any threads hand them over.

    It is what ``subscribe(..., on=loop)`` wants. It ends with ``widget``: what waits then is
    not called, later calls are refused with RuntimeError, and what was subscribed by
    ``subscribe`` is closed. Make it on Tk's thread; calls wait until the main loop runs.
    """

    def __init__(self, widget: tkinter.Misc) -> None:
        self._widget = widget
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._subscriptions: list[Subscription] = []
        self._is_over = False
        self._timer = widget.after(_REST_MS, self._work)
        widget.bind("<Destroy>", self._end, add=True)

    def __call__(self, call: Callable[[], object]) -> None:
        """Have ``call`` made soon; from any thread. Raises RuntimeError once the widget is gone."""
        if self._is_over:
            raise RuntimeError("the window is gone")
        self._calls.put(call)

    def subscribe(
        self, receiver: Callable[[Any], object], *types: type[StageEvent], **options: Any
    ) -> Subscription:
        """Subscribe until the widget is gone, ``on`` this loop unless ``options`` say otherwise.

        ``options`` are those of ``stagewright.events.subscribe``, and so is what it raises.
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
        # A window is told of the end of all that it holds, too.
        if event.widget is self._widget and not self._is_over:
            self._is_over = True
            self._widget.after_cancel(self._timer)
            for subscription in self._subscriptions:
                subscription.close(timeout_s=0)
