"""The speed of each of several servers, and the time that they need together."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from .estimate import Tally
from .work import CallUnderWay, PlanWork

_SHORTEST_S = 1e-9
"""A unit of weight that took less, in a foreign log, tells no speed."""


class ServerSpeeds:
    """The work and time of each server of an epoch, from the calls that name one.

    A server whose last call failed does not count until it gets another.
    """

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str], Tally] = {}
        """By server and stage."""
        self._last: dict[str, CallUnderWay] = {}
        """The last call of each server that was used."""
        self._failed: set[str] = set()

    def send(self, call: CallUnderWay) -> None:
        """A request is sent."""
        if call.server:
            self._last[call.server] = call
            self._failed.discard(call.server)

    def complete(self, call: CallUnderWay, now_s: float, weight: float) -> None:
        """A call has made images of this weight."""
        if call.server:
            place = (call.server, call.stage_id)
            before = self._tallies.get(place, Tally())
            self._tallies[place] = before.plus(now_s - call.sent_s, weight)

    def fail(self, call: CallUnderWay) -> None:
        """A call has failed; its time tells no speed."""
        if call.server and self._last.get(call.server) is call:
            self._failed.add(call.server)

    def remaining_s(
        self,
        now_s: float,
        calls: Collection[CallUnderWay],
        work: PlanWork,
        stage_id: str,
        *,
        in_stage: float,
        in_later: float,
    ) -> float | None:
        """The time for the remaining work: its amount by the summed speed of the working servers.

        A stage takes as long as the slowest of its calls, at least. A call is assumed to progress
        at the speed of its server, but not to finish. None with one server, or while no speed is
        known.
        """
        if len(self._last) < 2:
            return None
        speeds = self._speeds(now_s, calls, work, stage_id)
        working = self._last.keys() - self._failed or self._last.keys()
        together = sum(speeds[server] for server in working) if speeds else 0.0
        if not together:
            return None
        progress, slowest_s = 0.0, 0.0
        for call in calls:
            speed = speeds.get(call.server) or min(speeds.values())
            left, since_s = work.weight_under_way(call), max(0.0, now_s - call.marked_s)
            progress += min(left, speed * since_s)
            slowest_s = max(slowest_s, left / speed - since_s)
        return max(slowest_s, (in_stage - progress) / together, 0.0) + in_later / together

    def _speeds(
        self, now_s: float, calls: Iterable[CallUnderWay], work: PlanWork, stage_id: str
    ) -> dict[str, float]:
        """The weight in a second of each server in a stage; empty if none is known.

        Of a server that is not known it is the mean of the others, but no more than would have
        finished the request that is under way.
        """
        known = self._known_speeds(calls, work, stage_id)
        if not known:
            return {}
        speeds = dict.fromkeys(self._last, sum(known.values()) / len(known))
        for call in calls:
            left, since_s = work.weight_under_way(call), now_s - call.sent_s
            if call.server and left and since_s > 0:
                speeds[call.server] = min(speeds[call.server], left / since_s)
        return {**speeds, **known}

    def _known_speeds(
        self, calls: Iterable[CallUnderWay], work: PlanWork, stage_id: str
    ) -> dict[str, float]:
        """The speeds that answers and steps tell: in this stage, or else in all stages."""
        here: dict[str, Tally] = {}
        overall: dict[str, Tally] = {}
        for (server, stage), tally in self._tallies.items():
            overall[server] = overall.get(server, Tally()).plus(*tally)
            if stage == stage_id:
                here[server] = tally
        for call in calls:
            if call.server and call.fraction:
                done = work.planned(call.stage_id).weight * call.count * call.fraction
                so_far = call.marked_s - call.sent_s, done
                for tallies in (here, overall):
                    tallies[call.server] = tallies.get(call.server, Tally()).plus(*so_far)
        known: dict[str, float] = {}
        for server in self._last:
            each_s = here.get(server, Tally()).seconds_each
            each_s = each_s or overall.get(server, Tally()).seconds_each
            if each_s and each_s > _SHORTEST_S:
                known[server] = 1.0 / each_s
        return known
