"""Learning records: one for each run that has ended, derived from its log alone."""

from __future__ import annotations

__all__: list[str] = []
