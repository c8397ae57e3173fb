"""What a server has of what a plan needs: the findings that ``doctor`` shows, of any backend."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

_LONGEST_SHOWN = 200
"""A name is cut to this in messages."""


class Verdict(StrEnum):
    """The result of a check; ``NOT_CHECKED`` if the server does not offer the list."""

    FOUND = "found"
    MISSING = "missing"
    NOT_CHECKED = "not_checked"


class NameCheck(msgspec.Struct, frozen=True):
    """The check of one name; ``nearest`` are similar names if it is missing."""

    kind: str
    key: str
    name: str
    verdict: Verdict
    nearest: tuple[str, ...] = ()

    def complaint(self) -> str:
        """The error message for a missing name."""
        shown = self.name[:_LONGEST_SHOWN]
        if self.key.endswith("prompt"):
            return f'{self.key}: the server has no {self.kind} "{shown}"{self.suggestion()}'
        return f'{self.key} = "{shown}" is not on the server{self.suggestion()}'

    def suggestion(self) -> str:
        """``; did you mean "base.safetensors"?``, or "" without a similar name."""
        quoted = " or ".join(f'"{name[:_LONGEST_SHOWN]}"' for name in self.nearest)
        return f"; did you mean {quoted}?" if quoted else ""


class RouteCheck(msgspec.Struct, frozen=True):
    """A part of the server's interface: whether it is there, None where that cannot be told."""

    path: str
    there: bool | None


class ServerReport(msgspec.Struct, frozen=True, kw_only=True):
    """The features of a server, and the result of its checks.

    ``checks`` are the names of the plan; ``offers`` how many names each list holds (None if the
    server has no such list), ``names`` those names, and ``loaded`` the ones of a list that the
    server has loaded. ``problems`` would make the plan fail;
    ``notes`` say what could not be checked, and why.
    """

    url: str
    product: str | None = None
    version: str | None = None
    routes: tuple[RouteCheck, ...] = ()
    checks: tuple[NameCheck, ...] = ()
    problems: tuple[str, ...] = ()
    offers: Mapping[str, int | None] = {}
    names: Mapping[str, tuple[str, ...]] = {}
    loaded: Mapping[str, tuple[str, ...]] = {}
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[NameCheck, ...]:
        """The names that the server lacks."""
        return tuple(one for one in self.checks if one.verdict is Verdict.MISSING)

    @property
    def complaints(self) -> tuple[str, ...]:
        """Everything that keeps the plan from being run, in words; empty if nothing does."""
        return (*(one.complaint() for one in self.missing), *self.problems)
