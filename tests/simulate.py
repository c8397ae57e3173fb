"""``python -m tests.simulate``: runs seeds of the simulation, one in full view or many."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import starmap

from .simulated_checks import Violation
from .simulated_disk import Sync
from .simulated_groups import LostSyncs, simulate_group
from .simulation import simulate

_CHUNK = 50

Broken = list[tuple[int, str]]
"""Seeds that broke a promise, and which one."""


def survey(
    first: int, count: int, without: str = "", *, groups: bool = False
) -> tuple[Counter[str], Broken]:
    """What happened in ``count`` seeds from ``first`` on, and those that broke a promise.

    They are of runs, or of ``groups``. ``without`` is a kind of sync that the disk does not do.
    """
    counts: Counter[str] = Counter()
    broken = []
    for seed in range(first, first + count):
        try:
            counts += _simulate(seed, without, groups=groups)
        except Violation as violation:
            broken.append((seed, str(violation)))
    return counts, broken


def command_for(seed: int, without: str = "", *, groups: bool = False) -> str:
    """What to type to see one seed again."""
    command = f"python -m tests.simulate --seed {seed}" + (" --groups" if groups else "")
    return command + (f" --without {without}" if without else "")


def _simulate(
    seed: int, without: str, *, groups: bool, tell: Callable[[str], None] | None = None
) -> Counter[str]:
    if groups:
        return simulate_group(seed, lost=LostSyncs(kinds=_ignored(without)), tell=tell)
    return simulate(seed, ignored=_ignored(without), tell=tell)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _ignored(without: str) -> frozenset[Sync]:
    return frozenset({Sync(without)} if without else ())


def _chunks(first: int, count: int, without: str) -> Iterator[tuple[int, int, str]]:
    for start in range(first, first + count, _CHUNK):
        yield start, min(_CHUNK, first + count - start), without


def _run_many(first: int, count: int, processes: int, without: str, *, groups: bool) -> int:
    began = time.monotonic()
    counts: Counter[str] = Counter()
    broken: Broken = []
    with ExitStack() as stack:
        chunks, look = _chunks(first, count, without), partial(survey, groups=groups)
        done: Iterable[tuple[Counter[str], Broken]] = starmap(look, chunks)
        if processes > 1:
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(processes))
            done = pool.starmap(look, chunks, chunksize=1)
        for more, found in done:
            counts += more
            broken += found
    for seed, what in broken:
        _say(f"seed {seed}: {what}\n  again: {command_for(seed, without, groups=groups)}")
    seconds = time.monotonic() - began
    _say(f"{count} runs in {seconds:.1f} s by {processes} processes, {len(broken)} broken promises")
    for name in sorted(counts):
        _say(f"{counts[name]:>9} {name}")
    return 1 if broken else 0


def _run_one(seed: int, without: str, *, groups: bool) -> int:
    try:
        counts = _simulate(seed, without, groups=groups, tell=_say)
    except Violation as violation:
        again = command_for(seed, without, groups=groups)
        _say(f"seed {seed}: {violation}\n  again: {again}")
        return 1
    _say(f"seed {seed}: every promise is kept: {dict(counts)}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulate", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one, and tell everything")
    parser.add_argument("--runs", type=int, default=1000, help="run so many, and count")
    parser.add_argument("--start", type=int, default=0, help="the first of them")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--groups", action="store_true", help="of groups of runs")
    parser.add_argument("--without", choices=list(Sync), default="", help="a sync to leave out")
    chosen = parser.parse_args(arguments)
    if chosen.seed is not None:
        return _run_one(chosen.seed, chosen.without, groups=chosen.groups)
    return _run_many(
        chosen.start, chosen.runs, chosen.processes, chosen.without, groups=chosen.groups
    )


if __name__ == "__main__":
    sys.exit(main())
