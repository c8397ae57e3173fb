"""What goes wrong with a server, and which of it another try may mend.

::

    BackendError
    |-- ServerError               names the server; ``retry_kind`` decides about retries
    |   |-- ServerUnreachableError    nothing was sent
    |   |   |-- ServerStartingError       its port is open, and its routes are not there yet
    |   |   `-- ServerRestartingError     the user's command is bringing it back
    |   |-- ServerNotTrustedError     the certificate is not valid
    |   |-- AnswerLostError           the request was sent, but no complete answer came back
    |   |-- ServerStalledError        no progress for too long
    |   |   `-- ServerStillBusyError  and still busy after an interrupt
    |   |-- ServerUnavailableError    408, 429, 502, 503, 504 and statuses of proxies
    |   |-- ServerOutOfMemoryError    the server ran out of memory
    |   |-- ServerFailureError        any other 5xx
    |   |   `-- RequestNotUnderstoodError  a failure that the same request would cause again
    |   |       `-- NansError               the model gave no numbers
    |   |-- ServerInterruptedError    another client interrupted our request
    |   |-- RequestRefusedError       any other status, in ``status``
    |   |   |-- RouteMissingError     404
    |   |   |-- OtherPageError        a page for a browser, so it was not the server that answered
    |   |   `-- AuthenticationError   401 and 403
    |   `-- SettingsNotUsedError      the image was made with other settings than requested
    `-- BackendAnswerError        the answer does not hold the requested images
"""

from __future__ import annotations

from typing import ClassVar

from ....statemachine.config.schema import RetryKind
from ....statemachine.errors import BackendError


class ServerError(BackendError):
    """A request to a server failed.

    ``HttpClient.failure`` makes them: ``transient`` says whether the user's ``[server] transient``
    names the error's ``retry_kind``. ``unanswered`` tells that the server may still be working on
    the request; ``status`` is the HTTP status where there was one.
    """

    retry_kind: ClassVar[RetryKind | None] = None
    unanswered: ClassVar[bool] = False
    status: int | None = None


class ServerUnreachableError(ServerError):
    """The server cannot be reached; nothing was sent."""

    retry_kind = RetryKind.UNREACHABLE

    @property
    def is_out_of_reach(self) -> bool:
        """Whether it is worth waiting for the server; the user may rule that out."""
        return self.transient


class ServerStartingError(ServerUnreachableError):
    """The server answers, and does not have its routes yet."""


class ServerRestartingError(ServerUnreachableError):
    """The server is being restarted, by the command that the user's settings have for it."""

    @property
    def is_out_of_reach(self) -> bool:
        """It is waited for, also where the user rules that out for a server that is gone."""
        return True

    @property
    def is_of_backend(self) -> bool:
        """Another server can make the image meanwhile."""
        return True

    @property
    def is_restarting(self) -> bool:
        """It is."""
        return True


class ServerNotTrustedError(ServerError):
    """The server's certificate is not valid, or it does not use TLS."""

    @property
    def is_out_of_reach(self) -> bool:
        """Whether it is worth waiting for the server: a certificate may be renewed."""
        return True


class AnswerLostError(ServerError):
    """No complete answer came back; the server may still work on the request."""

    retry_kind = RetryKind.LOST
    unanswered = True


class ServerStalledError(ServerError):
    """The server made no progress for too long, or the request exceeded its time limit."""

    retry_kind: ClassVar[RetryKind | None] = RetryKind.STALLED
    unanswered = True


class ServerStillBusyError(ServerStalledError):
    """A stalled server was still busy after an interrupt; a retry would not help."""

    retry_kind = None

    @property
    def is_of_backend(self) -> bool:
        """Another server is not busy with it."""
        return True


class ServerUnavailableError(ServerError):
    """The server, or a proxy in front of it, cannot answer now."""

    retry_kind = RetryKind.UNAVAILABLE
    unanswered = True


class ServerOutOfMemoryError(ServerError):
    """The server ran out of memory while processing the request."""

    retry_kind = RetryKind.OUT_OF_MEMORY


class ServerFailureError(ServerError):
    """The server failed while processing the request."""

    retry_kind: ClassVar[RetryKind | None] = RetryKind.FAILURE


class RequestNotUnderstoodError(ServerFailureError):
    """A failure that the same request would cause again; a retry would not help."""

    retry_kind = None


class NansError(RequestNotUnderstoodError):
    """The model gave no numbers, which the same request would repeat; the server stays usable."""


class ServerInterruptedError(ServerError):
    """Another client interrupted or skipped our request, so its image is incomplete."""

    retry_kind = RetryKind.INTERRUPTED


class RequestRefusedError(ServerError):
    """The server refused the request, and would refuse it again."""


class RouteMissingError(RequestRefusedError):
    """The server has no such route."""


class OtherPageError(RequestRefusedError):
    """Something else than the server answered, by a page for a browser."""


class AuthenticationError(RequestRefusedError):
    """The server requires credentials, or rejected those sent."""


class SettingsNotUsedError(ServerError):
    """The server made an image with other settings than requested."""
