"""Whatever a group goes through: its percentage never goes back, and its status is a fold."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stagewright.adapters import RunStatus, StatusBar
from stagewright.adapters.projections.status import GroupStatus
from stagewright.events import RunResumed, RunState, StageEvent, StepProgress
from stagewright.events.groups.model import GroupEvent, GroupOpened, GroupSealed

from .group_lives import GroupTold, group_lives

GROUP_FIELDS = set(GroupStatus.__struct_fields__)


def still() -> float:
    """A clock that stands still: only events make time pass."""
    return 0.0


def tell(bar: StatusBar, told: GroupTold) -> None:
    if isinstance(told, GroupEvent):
        bar.take_group_event(told)
    elif isinstance(told, StageEvent):
        bar.take_event(told)
    else:
        bar.take_step(told)


class Watched:
    """A bar that can read what its runs have been given so far."""

    def __init__(self) -> None:
        self.past: list[StageEvent] = []
        self.bar = StatusBar(monotonic=still, history=self.history)

    def history(self, run_id: str) -> list[StageEvent]:
        return [one for one in self.past if one.run_id == run_id]

    def take(self, told: GroupTold) -> RunStatus:
        if isinstance(told, StageEvent):
            self.past.append(told)
        tell(self.bar, told)
        return self.bar.snapshot()


def shown_after(told: Sequence[GroupTold], bar: StatusBar | None = None) -> RunStatus:
    bar = bar or StatusBar(monotonic=still)
    for one in told:
        tell(bar, one)
    return bar.snapshot()


def of_run(status: RunStatus) -> dict[str, object]:
    """What is shown of the run alone."""
    return {
        key: one for key, one in msgspec.structs.asdict(status).items() if key not in GROUP_FIELDS
    }


@given(group_lives())
def test_the_percentage_of_a_group_never_goes_back(life: list[GroupTold]) -> None:
    """It is 100 exactly while the group is COMPLETED, and all numbers stay within bounds.

    Every event of a run is shown as without the group.
    """
    bar, without = Watched(), Watched()
    before = RunStatus()
    for told in life:
        now = bar.take(told)
        if not isinstance(told, GroupEvent):
            assert of_run(now) == of_run(without.take(told))
        percentage = now.group_percentage
        if percentage is not None:
            # A resume of a completed group, for lost files, makes it an unfinished one again.
            at_least = min(99.9, before.group_percentage or 0.0)
            assert percentage >= at_least, told
            assert 0.0 <= percentage <= 100.0, told
        assert (percentage == 100.0) == (now.group_state is RunState.COMPLETED), told
        assert now.variant_number <= now.variant_count
        assert 0 <= now.variants_finished + now.variants_failed <= now.variant_count
        if now.group_remaining_s is not None:
            assert now.group_state is RunState.RUNNING
            assert now.group_remaining_s >= 0
        before = now


@given(group_lives())
def test_the_percentage_of_a_group_is_the_weighted_share_of_its_runs(life: list[GroupTold]) -> None:
    """Of each variant that part which a bar of that run alone shows, weighted by its steps."""
    told = [one for one in life if not isinstance(one, StepProgress)]
    opened = told[0]
    assert isinstance(opened, GroupOpened)
    weights = [variant.total_steps or variant.total_images for variant in opened.variants]
    alone: dict[str, StatusBar] = {}
    bar = Watched()
    now = RunStatus()
    lost = False
    for one in told:
        now = bar.take(one)
        lost = lost or (isinstance(one, RunResumed) and bool(one.lost))
        if isinstance(one, StageEvent):
            tell(alone.setdefault(one.run_id, StatusBar(monotonic=still)), one)
    shares = [min(100.0, one.snapshot().percentage or 0.0) for one in alone.values()]
    expected = sum(map(float.__mul__, shares, map(float, weights))) / sum(weights)
    if now.group_state is not RunState.COMPLETED and not lost:
        # A bar of a run alone stops at 99.9 before its end, and so does that of a group.
        assert now.group_percentage == pytest.approx(min(99.9, expected), abs=0.11)
    elif now.group_state is not RunState.COMPLETED:
        assert (now.group_percentage or 0.0) >= min(99.9, expected) - 0.11


@given(group_lives(), st.data())
def test_a_later_process_shows_what_an_earlier_one_would(
    life: list[GroupTold], data: st.DataObject
) -> None:
    """From the group's log, the logs of its runs, and what happens from then on.

    Without lost images, which lower what a bar shows that did not see them.
    """
    told = [one for one in life if not isinstance(one, StepProgress)]
    if any(isinstance(one, RunResumed) and one.lost for one in told):
        return
    start = data.draw(st.integers(0, len(told)))
    earlier = [one for one in told[:start] if isinstance(one, GroupEvent)]
    past = [one for one in told if isinstance(one, StageEvent)]

    def history(run_id: str) -> list[StageEvent]:
        return [one for one in past[: known[0]] if one.run_id == run_id]

    known = [sum(isinstance(one, StageEvent) for one in told[:start])]
    later, first = StatusBar(monotonic=still, history=history), Watched()
    shown_after(earlier, later)
    for one in told[start:]:
        known[0] += isinstance(one, StageEvent)
        tell(later, one)
    now, then = later.snapshot(), [first.take(one) for one in told][-1]
    if not any(isinstance(one, GroupSealed) for one in told[start:]):
        return  # A run is looked up once the group goes on from it.
    counts = ("group_state", "variant_count", "variants_finished", "variants_failed")
    assert [getattr(now, name) for name in counts] == [getattr(then, name) for name in counts]
    assert now.group_percentage == pytest.approx(then.group_percentage)
