"""The text of an estimated duration."""

from __future__ import annotations

from ..projections.durations import Estimate
from ..text import rough_duration
from .output import count


def estimate_text(estimate: Estimate, *urls: str | None) -> str:
    """``about 12 min on http://host:7860 (from 5 recorded runs)``; ``urls`` are all servers."""
    server = " and ".join(url or "the embedded backend" for url in urls)
    runs = count(len(estimate.runs), "recorded run")
    about = "" if estimate.seconds < 1 else "about "
    return f"{about}{rough_duration(estimate.seconds)} on {server} (from {runs})"
