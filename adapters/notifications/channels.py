"""Where messages go: a command of the user, and services that Apprise knows."""

from __future__ import annotations

import logging
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, Protocol

from ...events.errors import StagewrightError
from ..errors import CommandNotStartedError, UserCommandError
from ..imaging import ImageError
from ..thumbnails import jpeg_thumbnail_of
from ..user_commands import run_command
from .messages import Message
from .settings import NotifySettings, Occasion

TRY_LIMIT_S = 10.0
"""How long one try may take."""
_PREFIX = "STAGEWRIGHT_NOTIFY_"
_PICTURE_SIDE = 320
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]{0,30})://", re.IGNORECASE)
_FROM_VARIABLE = "env:"


class NotDeliveredError(StagewrightError):
    """A message was not delivered this time."""


class WrongReceiverError(NotDeliveredError):
    """A message cannot be delivered to what the settings name, however often it is tried."""


class Channel(Protocol):
    """One receiver of messages. ``name`` holds no secret."""

    @property
    def name(self) -> str:
        """For messages about it."""
        ...

    def deliver(self, message: Message) -> None:
        """Try once. Raises NotDeliveredError, which holds no secret."""
        ...


class Channels(NamedTuple):
    """The channels that can be used, and what is wrong with the others."""

    usable: tuple[Channel, ...]
    problems: tuple[str, ...]


class CommandChannel:
    """Runs a command for each message."""

    name = "notify.command"

    def __init__(self, command: tuple[str, ...], output: int | None = subprocess.DEVNULL) -> None:
        self._command = command
        self._output = output

    def deliver(self, message: Message) -> None:
        """See ``Channel``."""
        with _picture_of(message) as picture:
            facts = {**message.facts, "title": message.title, "body": message.body}
            facts["picture"] = picture
            try:
                run_command(
                    self._command, facts, prefix=_PREFIX, limit_s=TRY_LIMIT_S, output=self._output
                )
            except CommandNotStartedError as error:
                raise WrongReceiverError(str(error)) from error
            except UserCommandError as error:
                raise NotDeliveredError(str(error)) from error


class AppriseChannel:
    """Sends messages to one service through Apprise."""

    def __init__(self, number: int, url: str) -> None:
        scheme = _SCHEME.match(url)
        # Of many services the part after the scheme is a token, so nothing else is shown.
        self.name = f"notify.urls, number {number} ({scheme[1] if scheme else 'no address'})"
        self._url = url

    def deliver(self, message: Message) -> None:
        """See ``Channel``."""
        with _picture_of(message) as picture:
            try:
                self._send(message, picture)
            except NotDeliveredError:
                raise
            except Exception as error:  # noqa: BLE001 - a plugin of Apprise may raise anything
                why = f"Apprise failed: {type(error).__name__}"
                raise NotDeliveredError(why) from None  # its text may show a token

    def _send(self, message: Message, picture: str | None) -> None:
        """Send a message. Raises NotDeliveredError, and what a plugin of Apprise raises."""
        import apprise  # noqa: PLC0415 - an extra, which takes half a second to load

        # What Apprise logs may show the address, and with it a token.
        logger = logging.getLogger("apprise")
        logger.propagate = False
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
        service = apprise.Apprise()
        if not service.add(self._url):
            raise WrongReceiverError("not an address that Apprise knows")
        kinds = {
            Occasion.FAILED: apprise.NotifyType.FAILURE,
            Occasion.COMPLETED: apprise.NotifyType.SUCCESS,
        }
        delivered = service.notify(
            body=message.body,
            title=message.title,
            notify_type=kinds.get(message.occasion, apprise.NotifyType.WARNING),
            body_format=apprise.NotifyFormat.TEXT,
            attach=picture,
        )
        if not delivered:
            raise NotDeliveredError("the service did not take it")


def find_channels(
    settings: NotifySettings,
    *,
    environment: Mapping[str, str] = os.environ,
    output: int | None = subprocess.DEVNULL,
) -> Channels:
    """The channels of the settings; nothing is sent yet."""
    usable: list[Channel] = []
    problems: list[str] = []
    if settings.command:
        usable.append(CommandChannel(settings.command, output))
    for number, text in enumerate(settings.urls, start=1):
        url: str | None = text
        if text.startswith(_FROM_VARIABLE):
            variable = text.removeprefix(_FROM_VARIABLE)
            url = environment.get(variable)
            if not url:
                problems.append(f"notify.urls, number {number}: the variable {variable} is not set")
        if url:
            usable.append(AppriseChannel(number, url))
    if settings.urls and find_spec("apprise") is None:
        usable = [one for one in usable if not isinstance(one, AppriseChannel)]
        problems.append("notify.urls needs Apprise: pip install 'stagewright[notify]'")
    return Channels(tuple(usable), tuple(problems))


@contextmanager
def _picture_of(message: Message) -> Iterator[str | None]:
    """The path of a small picture of the message's image, while it is sent.

    None where there is no image, or it cannot be read, or the disk is full.
    """
    with ExitStack() as stack:
        path = None
        if message.image is not None:
            with suppress(ImageError, OSError):
                picture = jpeg_thumbnail_of(message.image, _PICTURE_SIDE)
                made = TemporaryDirectory(prefix="stagewright-", ignore_cleanup_errors=True)
                file = Path(stack.enter_context(made)) / "image.jpg"
                file.write_bytes(picture)
                path = str(file)
        yield path
