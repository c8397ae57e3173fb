"""Groups of real runs on the embedded backend, with the events that a group publishes and logs.

``python -m tests.group_runs RUNS DELAY_S STEPS...`` is a process that runs one; each STEPS is a
variant's ``txt2img.steps``. It waits for a line on its standard input before the second one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
from stagewright.adapters import EmbeddedBackend
from stagewright.events import PipelineRunResult, RunState, signals
from stagewright.events.codec import encode_line
from stagewright.events.groups.model import GroupEvent
from stagewright.events.log.format import FIRST_CHAIN, frame, next_chain
from stagewright.statemachine import ImageBackend, PipelineController
from stagewright.statemachine.files.run_folder import new_run_id
from stagewright.statemachine.ports import SystemClock

from .group_lives import GroupStory, variants
from .resuming import small
from .support import TXT2IMG, controller

IMAGES = 2


class PinnedClock(SystemClock):
    """The machine's clocks; ``opens`` is the next time that is asked for, once."""

    opens: datetime | None = None

    def now(self) -> datetime:
        opens, self.opens = self.opens, None
        return opens or super().now()


class GroupLog:
    """Writes ``group.jsonl``."""

    def __init__(self, runs: Path, group_id: str) -> None:
        self.folder = runs / "groups" / group_id
        self.path = self.folder / "group.jsonl"
        self._chain = FIRST_CHAIN
        self.folder.mkdir(parents=True)

    def append(self, event: GroupEvent) -> None:
        body = encode_line(event)
        with self.path.open("ab") as stream:
            stream.write(frame(body, self._chain))
        self._chain = next_chain(self._chain, body)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold ``group.lock``."""
        with (self.folder / "group.lock").open("w") as stream:
            assert filelock.lock_descriptor(stream.fileno(), blocking=False)
            yield


class GroupRuns:
    """A group of a variant for each number of steps; every fact is logged, then published."""

    def __init__(
        self, runs: Path, steps: Sequence[int], backend: ImageBackend | None = None
    ) -> None:
        self.steps = steps
        self.wait: Callable[[], object] = lambda: None
        """Called between the first two variants."""
        self.clock = PinnedClock()
        self.controller: PipelineController = controller(
            runs, backend or EmbeddedBackend(), clock=self.clock, random_below=lambda _: 0
        )
        self.story = GroupStory(
            variants(*(each * IMAGES for each in steps), txt2img__steps=list(steps))
        )
        self.log = GroupLog(runs, self.story.group_id)

    def run(self) -> list[PipelineRunResult]:
        """Run all variants to their end."""
        with self.log.locked():
            self.tell(self.story.open())
            results = [self.run_variant(0)]
            self.wait()
            results += [self.run_variant(place) for place in range(1, len(self.steps))]
            whole = all(result.state is RunState.COMPLETED for result in results)
            self.tell(self.story.seal("completed" if whole else "failed"))
        return results

    def run_variant(self, place: int) -> PipelineRunResult:
        """Run one variant to its end."""
        opened = datetime.now(UTC)
        self.tell(self.story.begin(place, new_run_id("test", opened, lambda _: 0)))
        self.clock.opens = opened
        return self.controller.start(self.config(place)).wait(60)

    def config(self, place: int) -> dict[str, Any]:
        """The configuration of a variant."""
        return {
            **small("txt2img", images=IMAGES),
            "txt2img": {**TXT2IMG, "steps": self.steps[place]},
        }

    def tell(self, event: GroupEvent) -> None:
        """Log an event of the group and publish it."""
        self.log.append(event)
        signals.publish(signals.group_changed, event.group_id, group_event=event)


def main() -> None:
    """Run a group as the arguments say."""
    runs, delay_s, *steps = sys.argv[1:]
    backend = EmbeddedBackend(step_delay_s=float(delay_s))
    group = GroupRuns(Path(runs), [int(each) for each in steps], backend)
    group.wait = sys.stdin.readline
    group.run()


if __name__ == "__main__":
    main()
