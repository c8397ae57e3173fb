"""Delivers messages beside a run, which never waits for them."""

from __future__ import annotations

import logging
import threading
import time
from queue import Empty, Queue
from queue import Full as QueueFullError

from .channels import Channel, NotDeliveredError
from .messages import Message
from .settings import Occasion

PAUSES_S = (1.0, 3.0, 6.0, 12.0, 18.0)
"""Between the tries of one message: a service may be away for half a minute."""
_MOST_WAITING = 100
_logger = logging.getLogger("stagewright.notify")


class Notifier:
    """Sends messages for some occasions over some channels, each in a thread of its own.

    A message that is not taken is tried again; one that cannot be delivered is logged. Errors
    never reach the caller.
    """

    def __init__(
        self,
        channels: tuple[Channel, ...],
        on: tuple[Occasion, ...] = tuple(Occasion),
        *,
        pauses_s: tuple[float, ...] = PAUSES_S,
    ) -> None:
        self._on = frozenset(on)
        self._deliveries = [_Delivery(channel, pauses_s) for channel in channels]

    def wants(self, occasion: Occasion) -> bool:
        """Whether messages for an occasion go anywhere."""
        return occasion in self._on and bool(self._deliveries)

    def send(self, message: Message) -> None:
        """Deliver a message soon, if its occasion is wanted."""
        if self.wants(message.occasion):
            for delivery in self._deliveries:
                delivery.queue(message)

    def wait(self, limit_s: float) -> bool:
        """Wait until every message was delivered or given up; False after ``limit_s``."""
        deadline = time.monotonic() + limit_s
        return all(one.wait(max(0.0, deadline - time.monotonic())) for one in self._deliveries)

    def close(self) -> None:
        """Try no message again; those that are not delivered are counted in a warning."""
        for delivery in self._deliveries:
            delivery.abandon()


class _Delivery:
    """The messages for one channel, and the thread that delivers them."""

    def __init__(self, channel: Channel, pauses_s: tuple[float, ...]) -> None:
        self._channel = channel
        self._pauses_s = pauses_s
        self._queue: Queue[Message] = Queue(_MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._is_idle = threading.Condition()
        self._is_abandoned = threading.Event()
        self._waiting = 0

    def queue(self, message: Message) -> None:
        try:
            with self._is_idle:
                self._queue.put_nowait(message)
                self._waiting += 1
        except QueueFullError:
            _logger.warning("%s: too many messages wait; one is dropped", self._channel.name)
            return
        if self._thread is None:
            # A daemon: a service that never answers must not keep the program.
            self._thread = threading.Thread(
                target=self._work, name="stagewright-notify", daemon=True
            )
            self._thread.start()

    def wait(self, limit_s: float) -> bool:
        with self._is_idle:
            return self._is_idle.wait_for(lambda: not self._waiting, limit_s)

    def abandon(self) -> None:
        """Try no message again; the thread ends."""
        self._is_abandoned.set()
        if self._waiting:
            _logger.warning("%s: %d not delivered in time", self._channel.name, self._waiting)

    def _work(self) -> None:
        while not self._is_abandoned.is_set():
            try:
                message = self._queue.get(timeout=0.5)
            except Empty:
                continue
            try:
                self._deliver(message)
            finally:
                with self._is_idle:
                    self._waiting -= 1
                    self._is_idle.notify_all()

    def _deliver(self, message: Message) -> None:
        why = ""
        for pause_s in (0.0, *self._pauses_s):
            if self._is_abandoned.wait(pause_s):
                return
            try:
                self._channel.deliver(message)
            except Exception as error:  # noqa: BLE001 - none may end the thread
                # Other errors may hold the address of the service, and with it a token.
                is_ours = isinstance(error, NotDeliveredError)
                why = str(error) if is_ours else type(error).__name__
            else:
                return
        _logger.warning("%s: message %r not delivered: %s", self._channel.name, message.title, why)
