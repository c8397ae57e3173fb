"""Errors of the API: a status and a body, as a WebUI sends them."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """An answer other than 200; ``body`` is its JSON document.

    With ``error`` the document is ``{error, detail, body, errors}``, as of everything that
    a WebUI's own code raises; without it ``{detail}``, as of its framework.
    """

    def __init__(self, status: int, *, error: str = "", detail: Any = "", errors: str = "") -> None:
        super().__init__(errors or str(detail))
        self.status = status
        self.body: dict[str, Any] = {"detail": detail}
        if error:
            self.body = {"error": error, "detail": detail, "body": "", "errors": errors}


def client_error(status: int, detail: str) -> ApiError:
    """An error that a WebUI raises as HTTPException, with its message in ``detail``."""
    return ApiError(status, error="HTTPException", detail=detail)


def server_error(error: str, errors: str) -> ApiError:
    """Status 500: an exception of type ``error`` while the request was processed."""
    return ApiError(500, error=error, errors=errors)


def validation_error(place: tuple[str | int, ...], message: str) -> ApiError:
    """Status 422: a body that fails validation at ``place``."""
    return ApiError(422, detail=[{"loc": list(place), "msg": message, "type": "value_error"}])
