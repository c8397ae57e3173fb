"""Delivers messages beside a run, which never waits for them."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

from .channels import Channel, NotDeliveredError, WrongReceiverError
from .messages import Message
from .settings import Occasion

PAUSES_S = (1.0, 3.0, 6.0, 12.0, 18.0)
"""Between the tries of one message: a service may be away for half a minute."""
_MOST_WAITING = 100
"""A service that never answers must not fill the memory of a queue that runs for weeks."""
_logger = logging.getLogger("stagewright.notify")


class Notifier:
    """Sends messages for some occasions over some channels, each in a thread of its own.

    A message that is not taken is tried again, unless its receiver is wrong; one that cannot be
    delivered is logged. Errors never reach the caller.
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
        self._changed = threading.Condition()  # guards the messages
        self._messages: deque[Message] = deque()
        """The first one is being delivered."""
        self._thread: threading.Thread | None = None
        self._is_abandoned = threading.Event()

    def queue(self, message: Message) -> None:
        with self._changed:
            if len(self._messages) >= _MOST_WAITING:
                _logger.warning("%s: too many messages wait; one is dropped", self._channel.name)
                return
            self._messages.append(message)
            self._changed.notify_all()
        if self._thread is None:
            # A daemon: a service that never answers must not keep the program.
            self._thread = threading.Thread(
                target=self._work, name="stagewright-notify", daemon=True
            )
            self._thread.start()

    def wait(self, limit_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._messages, limit_s)

    def abandon(self) -> None:
        """Try no message again; the thread ends."""
        self._is_abandoned.set()
        with self._changed:
            self._changed.notify_all()
            waiting = len(self._messages)
        if waiting:
            _logger.warning("%s: %d not delivered in time", self._channel.name, waiting)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._messages or self._is_abandoned.is_set())
                if self._is_abandoned.is_set():
                    return
                message = self._messages[0]
            self._deliver(message)
            with self._changed:
                self._messages.popleft()
                self._changed.notify_all()

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
                if isinstance(error, WrongReceiverError):
                    break
            else:
                return
        _logger.warning("%s: message %r not delivered: %s", self._channel.name, message.title, why)
