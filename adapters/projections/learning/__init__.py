"""Learning records: one for each run that ended, made of its log and of nothing else."""

from __future__ import annotations

__all__: list[str] = []
