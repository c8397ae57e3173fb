"""What goes wrong with a server, and which of it another try may mend.

::

    BackendError
    |-- ServerError               names the server; says what kind of failure it was
    |   |-- ServerUnreachableError    nothing was sent
    |   |-- ServerNotTrustedError     its certificate does not hold
    |   |-- AnswerLostError           it was sent, and no whole answer came back
    |   |-- ServerStalledError        it stood still too long
    |   |   `-- ServerStillBusyError  and did not come to rest when told to
    |   |-- ServerUnavailableError    408, 429, 502, 503, 504 and proxies' own
    |   |-- ServerOutOfMemoryError    it said so
    |   |-- ServerFailureError        any other 5xx
    |   |   `-- RequestNotUnderstoodError  one that the request alone decides
    |   |-- ServerInterruptedError    somebody else interrupted our request
    |   |-- RequestRefusedError       any other status; ``status`` says which
    |   |   |-- RouteMissingError     404
    |   |   `-- AuthenticationError   401 and 403
    |   `-- SettingsNotUsedError      it made an image, with other settings than asked for
    `-- BackendAnswerError        its answer is not the images asked for
"""

from __future__ import annotations

from typing import ClassVar

from ....statemachine.config.schema import RetryKind
from ....statemachine.errors import BackendError


class ServerError(BackendError):
    """A request to a server came to nothing.

    ``HttpClient.failure`` makes them: ``transient`` says whether the user's ``[server] transient``
    names the error's ``retry_kind``. ``unanswered`` tells that the server may still be working on
    the request; ``status`` is the HTTP status where there was one.
    """

    retry_kind: ClassVar[RetryKind | None] = None
    unanswered: ClassVar[bool] = False
    status: int | None = None


class ServerUnreachableError(ServerError):
    """The server cannot be reached: nothing was sent."""

    retry_kind = RetryKind.UNREACHABLE


class ServerNotTrustedError(ServerError):
    """The server's certificate does not hold, or it speaks no TLS at all."""


class AnswerLostError(ServerError):
    """The request left, and no whole answer came back; the server may still work on it."""

    retry_kind = RetryKind.LOST
    unanswered = True


class ServerStalledError(ServerError):
    """The server's progress stood still too long, or a request took too long in all."""

    retry_kind: ClassVar[RetryKind | None] = RetryKind.STALLED
    unanswered = True


class ServerStillBusyError(ServerStalledError):
    """A stalled server did not come to rest when it was told to; another try is no use."""

    retry_kind = None


class ServerUnavailableError(ServerError):
    """The server, or a proxy before it, cannot answer now."""

    retry_kind = RetryKind.UNAVAILABLE
    unanswered = True


class ServerOutOfMemoryError(ServerError):
    """The server ran out of memory on the request."""

    retry_kind = RetryKind.OUT_OF_MEMORY


class ServerFailureError(ServerError):
    """The server failed on the request."""

    retry_kind: ClassVar[RetryKind | None] = RetryKind.FAILURE


class RequestNotUnderstoodError(ServerFailureError):
    """The server failed in a way that the request alone decides; another try is no use."""

    retry_kind = None


class ServerInterruptedError(ServerError):
    """Somebody else interrupted or skipped our request; its image is half made."""

    retry_kind = RetryKind.INTERRUPTED


class RequestRefusedError(ServerError):
    """The server refused the request, and would again."""


class RouteMissingError(RequestRefusedError):
    """The server has no such route."""


class AuthenticationError(RequestRefusedError):
    """The server wants other credentials, or some at all."""


class SettingsNotUsedError(ServerError):
    """The server made an image with other settings than it was asked for."""
