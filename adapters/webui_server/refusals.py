"""What a request is refused with: a status and a body as a WebUI words it."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """An answer other than 200; ``body`` is its JSON document.

    With ``error`` the document is ``{error, detail, body, errors}``, as of everything that
    a WebUI's own code raises; without it ``{detail}``, as of the framework's own refusals.
    """

    def __init__(self, status: int, *, error: str = "", detail: Any = "", errors: str = "") -> None:
        super().__init__(errors or str(detail))
        self.status = status
        self.body: dict[str, Any] = {"detail": detail}
        if error:
            self.body = {"error": error, "detail": detail, "body": "", "errors": errors}


def refused(status: int, detail: str) -> ApiError:
    """What a WebUI raises as an HTTPException: its words stand in ``detail``."""
    return ApiError(status, error="HTTPException", detail=detail)


def failed(error: str, errors: str) -> ApiError:
    """An exception of the type ``error`` in the middle of the work: 500."""
    return ApiError(500, error=error, errors=errors)


def unprocessable(place: tuple[str | int, ...], message: str, kind: str) -> ApiError:
    """A body that fails validation: 422, naming the place."""
    return ApiError(422, detail=[{"loc": list(place), "msg": message, "type": kind}])
