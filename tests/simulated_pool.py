"""Several simulated servers that share the work of a run; they come and go."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from random import Random

import msgspec
from stagewright.events.folds import Fold
from stagewright.events.model import ServerDescription
from stagewright.statemachine import CancelToken, GenerateAnswer, GenerateRequest, ImageBackend
from stagewright.statemachine.errors import BackendError
from stagewright.statemachine.plan.plan import StageExecution
from stagewright.statemachine.ports import OnStep
from stagewright.statemachine.run.requests import unsettled_calls

from .simulated_backend import Happening, Server, SimulatedBackend


class GoneError(BackendError):
    """A simulated server cannot be reached."""

    @property
    def is_out_of_reach(self) -> bool:
        return True


class SimulatedServer(SimulatedBackend):
    """One of the servers; ``gone`` are the numbers of the requests that do not reach it."""

    gone: Collection[int] = ()
    _tried = 0

    def generate_images(
        self, request: GenerateRequest, *, cancel: CancelToken, on_step: OnStep
    ) -> GenerateAnswer:
        self._tried += 1
        if self._tried in self.gone:
            raise GoneError("nobody answers", transient=True, settled=True)
        try:
            return super().generate_images(request, cancel=cancel, on_step=on_step)
        except BackendError as error:
            if error.transient:  # it may still work on the request
                self._server.lost.setdefault(self._place(request), []).append(request.call_id)
            raise

    def _receive(self, request: GenerateRequest) -> None:
        """What was left behind is waited for before anything else is made."""
        super()._receive(request)
        for place in [*self._server.lost]:
            if place.startswith(f"{self.description.url} "):
                self._server.lost.pop(place, None)


class SimulatedPool:
    """The servers of one process: some of those that there are, in any order."""

    def __init__(
        self,
        count: int,
        random: Random,
        server: Server,
        happenings: Mapping[int, Happening],
        bring_about: Callable[[Happening], None],
    ) -> None:
        urls = random.sample([f"simulated://{place}" for place in range(count)], count)
        urls = urls[: random.randrange(1, count + 1)]
        self.servers = [
            SimulatedServer(
                server,
                # Each thing happens at one server, to one of its first requests.
                {at // count: what for at, what in happenings.items() if at % len(urls) == place},
                bring_about,
                url=url,
            )
            for place, url in enumerate(urls)
        ]
        for one in self.servers:
            begin = random.randrange(1, 8)
            one.gone = range(begin, begin + random.randrange(4))
        self.description = msgspec.structs.replace(
            self.servers[0].description,
            servers=tuple(ServerDescription(url=url) for url in urls),
        )
        self._server = server
        self._mistakes: list[str] = []

    @property
    def slots(self) -> int:
        return len(self.servers)

    @property
    def mistakes(self) -> list[str]:
        """What was wrong with the requests, and with what the log knew of earlier ones."""
        return self._mistakes + [it for one in self.servers for it in one.mistakes]

    def members(self, stage: StageExecution) -> Sequence[ImageBackend]:
        del stage
        return self.servers

    def settle(self, fold: Fold) -> None:
        """Wait for all that an earlier process left behind, of which the log must know."""
        known = {(one.server, one.call_id) for one in unsettled_calls(fold)}
        for place, calls in self._server.lost.items():
            url = place.partition(" ")[0]
            for call_id in calls:
                if (url, call_id) not in known:
                    self._mistakes.append(f"nobody knows that {url} works on {call_id}")
        self._server.lost.clear()

    def generate_images(
        self, request: GenerateRequest, *, cancel: CancelToken, on_step: OnStep
    ) -> GenerateAnswer:
        return self.servers[0].generate_images(request, cancel=cancel, on_step=on_step)
