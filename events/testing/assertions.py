"""Readable views of a sequence of events, and assertions on it, for tests of any kind."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from ..model import LifecycleChanged, RunState, StageEvent, StageImageProgress, StageStart
from .timeline_text import timeline_lines

E = TypeVar("E", bound=StageEvent)


class RecordedEvents:
    """Events in the order in which they came: those of a recorder, of a log, or any others.

    ::

        recorded = RecordedEvents(replay("runs/20261120T225226.123456Z-portrait-7f3a9c").events)
        recorded.assert_stages("txt2img", "upscale")
        recorded.assert_images_per_stage({"txt2img": 4, "upscale": 4})
        recorded.assert_lifecycle("IDLE", "RUNNING", "COMPLETED")
        recorded.assert_nothing_lost()

    The assertions raise AssertionError, whose message shows what was recorded. Stages, images
    and lifecycle are of one run: where there are several, ``of_run`` takes one of them, and
    ValueError says so.
    """

    def __init__(self, events: Iterable[StageEvent] = ()) -> None:
        self._recorded = events if isinstance(events, Sequence) else tuple(events)

    @property
    def events(self) -> Sequence[StageEvent]:
        """The events themselves."""
        return self._recorded

    def types(self) -> list[str]:
        """The names of the events' types, in order."""
        return [type(event).__name__ for event in self.events]

    def of_type(self, kind: type[E]) -> list[E]:
        """The events of one type, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    def run_ids(self) -> list[str]:
        """The runs there are events of, in the order of their first one."""
        return list(dict.fromkeys(event.run_id for event in self.events))

    def of_run(self, run_id: str) -> RecordedEvents:
        """What has been recorded of one run so far."""
        return RecordedEvents([event for event in self.events if event.run_id == run_id])

    def stages(self) -> list[str]:
        """The types of the stages, in the order in which they first began."""
        starts = (event for event in self._of_one_run() if isinstance(event, StageStart))
        return list(dict.fromkeys(str(start.stage_type) for start in starts))

    def images_per_stage(self) -> dict[str, int]:
        """By stage type, how many images were announced; one that was made again counts once."""
        announced: dict[str, set[int]] = {stage: set() for stage in self.stages()}
        for event in self._of_one_run():
            if isinstance(event, StageImageProgress):
                announced.setdefault(str(event.stage_type), set()).add(event.image_index)
        return {stage: len(indexes) for stage, indexes in announced.items()}

    def lifecycle(self) -> list[str]:
        """The states that the run went through, in order, with the one that it came from."""
        changes = [event for event in self._of_one_run() if isinstance(event, LifecycleChanged)]
        return [str(change.source) for change in changes[:1]] + [str(one.dest) for one in changes]

    def timeline(self) -> str:
        """The events as text, one line each, the same whenever the same thing happens.

        Run ids, call ids, digests, hosts, processes and versions have stand-ins, times,
        durations and sizes of files are left out; order, seeds and sizes of images stay. So the
        text can be kept, and compared with that of another run or machine.
        """
        return "".join(f"{line}\n" for line in timeline_lines(self.events))

    def assert_stages(self, *expected: str) -> None:
        """These stages began, and no others, in this order."""
        __tracebackhide__ = True
        _compare("stages", " -> ", expected, self.stages())

    def assert_images_per_stage(self, expected: Mapping[str, int]) -> None:
        """So many images of each stage were announced."""
        __tracebackhide__ = True
        recorded = self.images_per_stage()
        if recorded != {str(stage): count for stage, count in expected.items()}:
            _fail("images per stage", _counts(expected), _counts(recorded))

    def assert_lifecycle(self, *expected: str) -> None:
        """The run went through these states, the first one included."""
        __tracebackhide__ = True
        _compare("lifecycle", " -> ", [str(RunState(one)) for one in expected], self.lifecycle())

    def assert_nothing_lost(self, *, first_seq: int | None = 0) -> None:
        """Every event of each run is there once, from ``first_seq`` on, in order.

        None stands for whatever came first: of a run that was joined late, or taken up again.
        """
        __tracebackhide__ = True
        if not self.events:
            raise AssertionError("no event was recorded")
        if breaks := list(self._breaks(first_seq)):
            raise AssertionError("\n".join(["events were lost or doubled:", *breaks]))

    def assert_timeline(self, expected: str | Path) -> None:
        """``timeline`` is this text, or what this file holds; the message is a unified diff.

        The text may be indented as a whole. Raises FileNotFoundError.
        """
        __tracebackhide__ = True
        if isinstance(expected, Path):
            named, text = str(expected), expected.read_text(encoding="utf-8")
        else:
            named, text = "expected", textwrap.dedent(expected).strip("\n")
        wanted, found = text.splitlines(), self.timeline().splitlines()
        if wanted != found:
            diff = difflib.unified_diff(wanted, found, named, "recorded", lineterm="")
            raise AssertionError("\n".join(["the timeline is another one:", *diff]))

    def _of_one_run(self) -> Sequence[StageEvent]:
        run_ids = self.run_ids()
        if len(run_ids) > 1:
            raise ValueError(
                f"events of {len(run_ids)} runs were recorded: {', '.join(run_ids)}; "
                "of_run(run_id) takes those of one"
            )
        return self.events

    def _breaks(self, first_seq: int | None) -> Iterator[str]:
        following: dict[str, int] = {}
        for event in self.events:
            begin = event.seq if first_seq is None else first_seq
            wanted = following.get(event.run_id, begin)
            if event.seq != wanted:
                got = f"#{event.seq} {type(event).__name__}"
                yield f"  run {event.run_id}: expected #{wanted}, got {got}"
            following[event.run_id] = event.seq + 1


def _compare(what: str, between: str, expected: Sequence[str], recorded: Sequence[str]) -> None:
    __tracebackhide__ = True
    wanted = [str(one) for one in expected]
    if wanted != list(recorded):
        _fail(what, between.join(wanted), between.join(recorded))


def _fail(what: str, expected: str, recorded: str) -> None:
    __tracebackhide__ = True
    raise AssertionError(
        f"{what}\n  expected: {expected or 'none'}\n  recorded: {recorded or 'none'}"
    )


def _counts(images: Mapping[str, int]) -> str:
    return ", ".join(f"{stage} {count}" for stage, count in images.items())
