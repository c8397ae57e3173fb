"""Simulated runs that several servers share, which die and come back, as processes do."""

from __future__ import annotations

from collections import Counter

import pytest

from .simulated_checks import Violation
from .simulated_disk import Sync
from .simulation import simulate

SEEDS = range(40)


@pytest.mark.parametrize("servers", [2, 3])
def test_whatever_happens_the_images_are_those_of_one_server(servers: int) -> None:
    """Every promise is kept over crashes, power losses, cancels and servers that go away."""
    counts: Counter[str] = Counter()
    for seed in SEEDS:
        counts += simulate(seed, servers=servers)
    assert counts["kills"] > 6
    assert counts["power losses"] > 3


@pytest.mark.parametrize("ignored", [Sync.LOG, Sync.FILE, Sync.FOLDER], ids=str)
def test_a_sync_that_is_left_out_is_found_with_two_servers(ignored: Sync) -> None:
    """So the simulation would notice if a barrier were gone."""

    def simulate_all() -> None:
        for seed in SEEDS:
            simulate(seed, ignored=frozenset([ignored]), servers=2)

    with pytest.raises(Violation):
        simulate_all()
