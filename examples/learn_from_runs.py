"""Learns from finished runs: how long an image takes with which settings, and how often it fails.

    python examples/learn_from_runs.py [RUNS]

reads `RUNS/learning.jsonl` (`./runs` by default), to which every run that ends adds a record, with
nothing but the standard library. `stagewright learning` rebuilds the file from all logs.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 5
Settings = tuple[str, str, str, int]


class Experience:
    """What has been seen of one stage with one model, sampler and number of steps."""

    def __init__(self) -> None:
        self.images = 0
        self.milliseconds = 0.0
        self.attempts = 0
        self.failed_attempts = 0

    def add(self, stage: dict[str, Any]) -> None:
        """Take one more stage of a run into account, of failed and cancelled runs too."""
        self.images += stage["image_count"]
        self.milliseconds += stage["duration_ms"]
        self.attempts += stage["attempts"]
        self.failed_attempts += stage["failed_attempts"]


def records(runs: Path) -> Iterator[dict[str, Any]]:
    """The record of each run that has ended."""
    with open(runs / "learning.jsonl", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            if record["schema_version"] != SCHEMA_VERSION:
                raise SystemExit(f"version {record['schema_version']}, expected {SCHEMA_VERSION}")
            yield record


def learn(from_records: Iterable[dict[str, Any]]) -> dict[Settings, Experience]:
    """By stage, model, sampler and steps, what has been seen of them."""
    learned: defaultdict[Settings, Experience] = defaultdict(Experience)
    for record in from_records:
        for stage in record["stages"]:
            asked = stage["asked"]
            settings = (
                stage["stage_type"],
                asked["model"] or asked["upscaler"] or "-",
                asked["sampler"] or "-",
                asked["steps"] or 0,
            )
            learned[settings].add(stage)
    return learned


def line(settings: Settings, seen: Experience) -> str:
    """The settings and what has been seen of them, in columns."""
    stage, model, sampler, steps = settings
    each = f"{seen.milliseconds / seen.images:.1f}" if seen.images else "-"
    failed = f"{seen.failed_attempts} of {seen.attempts}"
    return (
        f"{stage:<10} {model:<30} {sampler:<12} {steps:>5} {seen.images:>6} {each:>9} {failed:>10}"
    )


def main() -> None:
    """Print one line for each of the settings, those with most images first."""
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
    try:
        learned = learn(records(runs))
    except OSError as error:
        raise SystemExit(f"{error.filename}: {error.strerror}; has a run ended there?") from error
    print(
        "stage      model                          sampler      steps images   ms each     failed"
    )
    for settings, seen in sorted(learned.items(), key=lambda one: -one[1].images):
        print(line(settings, seen))


if __name__ == "__main__":
    main()
