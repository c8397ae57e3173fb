"""What must hold of a simulated group after every crash, and at its end."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from stagewright.events import LogCorruptError, RunState
from stagewright.events.folds import Fold
from stagewright.events.groups.fold import GroupFold
from stagewright.events.groups.log import GROUP_LOCK_NAME, read_group_log
from stagewright.events.groups.model import GroupEvent
from stagewright.events.log.lock import is_locked
from stagewright.events.log.reader import read_log
from stagewright.events.model import CallRequested, StageEvent
from stagewright.statemachine.files.run_folder import run_folders
from stagewright.statemachine.groups.folder import group_folders
from stagewright.statemachine.groups.result import replay_group
from stagewright.statemachine.plan.plan import StageExecutionPlan

from .simulated_backend import Server
from .simulated_checks import check_end, check_files, check_unlocked, demand, planned_requests


class _LogFacts:
    """The records of one log by number, and the last that is durable."""

    def __init__(self) -> None:
        self.events: dict[int, Any] = {}
        self.durable = -1


class Facts:
    """What was reported as recorded, by the folder of the log, and as the group's state."""

    def __init__(self) -> None:
        self.logs: dict[str, _LogFacts] = {}
        self.has_group = False
        self.may_be: set[RunState] = set(RunState)

    def note(self, folder: str, event: Any, *, durable: bool) -> None:
        """Take down one more record; what is durable makes all before it so."""
        log = self.logs.setdefault(folder, _LogFacts())
        log.events[event.seq] = event
        if durable:
            log.durable = event.seq

    def promise(self, state: RunState | None) -> None:
        """The group was reported to be in this state; None where one of its runs goes on alone."""
        self.has_group = True
        if state is RunState.RUNNING:
            self.may_be = set(RunState) - {RunState.CANCELLED}
        elif state is RunState.CANCELLED:
            self.may_be = {RunState.CANCELLED, RunState.COMPLETED}
        elif state is not None:
            self.may_be = {state}
        else:
            self.may_be = set(RunState)

    def promise_any(self) -> None:
        """The group is asked to stop; whether it is recorded is not known yet."""
        self.may_be = set(RunState)

    def check_runs(self, there: set[str], *, power_lost: bool) -> None:
        """No run is gone, but for one that a power loss may take before a record is durable."""
        for name, log in list(self.logs.items()):
            if isinstance(next(iter(log.events.values())), StageEvent) and name not in there:
                demand(power_lost and log.durable < 0, f"the run {name} is gone")
                del self.logs[name]

    def check(self, folder: str, found: list[Any], *, power_lost: bool) -> None:
        """Every record that was reported is in the log, in its place.

        A power loss may take what was behind the last barrier. What is there now is a fact.
        """
        log = self.logs.setdefault(folder, _LogFacts())
        last = log.durable if power_lost else max(log.events, default=-1)
        demand(last < len(found), f"{last + 1} records of {folder} were kept, {len(found)} are")
        for seq, fact in log.events.items():
            if seq < len(found):
                demand(found[seq] == fact, f"{folder} has {found[seq]} instead of {fact}")
        log.events = dict(enumerate(found))
        if power_lost:
            log.durable = len(found) - 1


class _Claim(msgspec.Struct, frozen=True):
    """The run that a variant has, as its own log says."""

    run_id: str
    group_id: str | None
    variant_index: int | None


def check_group(runs: Path, facts: Facts, server: Server, *, power_lost: bool) -> None:
    """Nothing that was recorded is lost, and no variant has two runs."""
    groups = group_folders(runs)
    demand(len(groups) <= 1, f"{len(groups)} groups were made of one")
    claims, called = _check_runs(runs, facts, power_lost=power_lost)
    for call_id, times in server.received.items():
        demand(call_id in called, f"{call_id} was sent, and no run knows of it")
        demand(times == 1, f"{call_id} was sent {times} times")
    if not groups:
        demand(not facts.has_group, "the group is gone")
        demand(not claims, "there are runs, and their group is gone")
        return
    (folder,) = groups
    demand(not is_locked(folder, GROUP_LOCK_NAME), "the lock of a dead process is still held")
    events: list[GroupEvent] = []
    try:
        read_group_log(folder, events.extend)
    except LogCorruptError as error:
        demand(kept=False, promise=f"the group's log is corrupt: {error}")
    facts.check(folder.name, events, power_lost=power_lost)
    fold = GroupFold()
    fold.apply_all(events)
    per_variant = Counter(claim.variant_index for claim in claims)
    for claim in claims:
        demand(claim.group_id == fold.group_id, f"{claim.run_id} is of another group")
        demand(per_variant[claim.variant_index] == 1, f"{claim.variant_index} has two runs")
        begun = fold.run_ids.get(claim.variant_index or 0, claim.run_id)
        demand(begun == claim.run_id, f"{claim.run_id} was made for a variant that has {begun}")
    state = replay_group(folder, runs).state
    demand(state in facts.may_be, f"the group is {state}, and was reported to be {facts.may_be}")


def _check_runs(runs: Path, facts: Facts, *, power_lost: bool) -> tuple[list[_Claim], set[str]]:
    """The runs with the variants that they are of, and the ids of all recorded requests."""
    claims: list[_Claim] = []
    called: set[str] = set()
    there = {folder.name for folder in run_folders(runs)}
    facts.check_runs(there, power_lost=power_lost)
    for folder in run_folders(runs):
        check_unlocked(folder)
        events: list[StageEvent] = []
        try:
            timeline = read_log(folder, events.extend)
        except LogCorruptError as error:
            demand(kept=False, promise=f"the log of a run is corrupt: {error}")
        facts.check(folder.name, events, power_lost=power_lost)
        fold = Fold()
        fold.apply_all(events)
        check_files(folder, fold, timeline, ())
        called |= {one.call_id for one in events if isinstance(one, CallRequested)}
        assert fold.opened is not None
        opened = fold.opened
        claims.append(_Claim(opened.run_id, opened.group_id, opened.variant_index))
    return claims, called


def check_group_end(runs: Path, server: Server, excused: int) -> int:
    """The group is complete and sealed, nothing was made twice; the number of requests."""
    (group,) = group_folders(runs)
    result = replay_group(group, runs)
    demand(result.state is RunState.COMPLETED, f"the group ended {result}")
    begun = {one.run_id for one in result.variants}
    folders = {path.name for path in runs.iterdir()} - {"groups"}
    demand(folders == begun, f"folders that are no runs are left: {folders - begun}")
    planned = 0
    for folder in run_folders(runs):
        fold = Fold()
        timeline = read_log(folder, fold.apply_all)
        check_end(folder, fold, timeline)
        planned += planned_requests(StageExecutionPlan.from_document(fold.plan))
    sent = sum(server.received.values())
    demand(sent <= planned + excused, f"{sent} requests for {planned}, {excused} excused")
    return sent
