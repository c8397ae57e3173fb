"""The images of the variants of a group for its page, and why others are missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from ....events.model import RunState
from ....events.ratings.log import Ratings
from ....events.result import FinishedImage
from ....statemachine.files.recorded_files import FileState, RecordedFile
from ....statemachine.groups.result import (
    CORRUPT,
    MISSING,
    REMOVED,
    UNREADABLE,
    VariantResult,
    VariantRun,
    read_variant_run,
)
from ...event_text import why_not_made
from ...projections.rating_text import rating_text
from ...text import byte_size
from .image_facts import PromptTable, StagePrompts, link_to
from .pictures import ImageInspector, InspectedImage

SHOWN_SIDE = 160
"""The longest side of a picture on the page, in CSS pixels."""
_THUMBNAIL_SIDE = 192
_MOST_THUMBNAIL_CHARACTERS = 14_000_000
"""On one page; the browser scales the linked files of further images, when they are seen."""
_MOST_IMAGES = 10_000
"""On one page; of each run as many as there is room for all."""
_LONGEST_REASON = 500
_DIGEST = 16
_DAMAGE = {CORRUPT: "the log of its run is corrupt", UNREADABLE: "its run cannot be read"}


class ShownImage(msgspec.Struct, frozen=True, kw_only=True):
    """A planned image of a run: its file and thumbnail, or ``words`` in their place.

    ``number`` counts from 1 and is None where one entry stands for all images of a run. ``prompt``
    is a place in the table of prompts, ``link`` and ``source`` are addresses, "" for none;
    ``width`` and ``height`` are CSS pixels. ``remark`` says what is unusual.
    """

    number: int | None
    seed: int | None = None
    prompt: int | None = None
    words: str = ""
    link: str = ""
    source: str = ""
    width: int = 0
    height: int = 0
    stage_id: str = ""
    size: str = ""
    digest: str = ""
    remark: str = ""
    rating: str = ""


class VariantImages:
    """Reads the images of one variant after the other, with their thumbnails.

    ``folders`` are the runs by variant, ``variants`` counts those of the page. ``images`` counts
    the images that were read, ``altered`` and ``missing`` (or unreadable) are paths of their files.
    """

    def __init__(
        self,
        folders: Mapping[int, Path],
        page: Path,
        ratings: Ratings,
        *,
        thumbnails: bool,
        variants: int,
    ) -> None:
        self.prompts = PromptTable()
        self.images = 0
        self.altered: list[str] = []
        self.missing: list[str] = []
        self._folders = folders
        self._page = page
        self._ratings = ratings
        self._characters_left = _MOST_THUMBNAIL_CHARACTERS if thumbnails else 0
        self._most = max(1, _MOST_IMAGES // max(1, variants))

    def read(self, variant: VariantResult) -> Sequence[ShownImage]:
        """The planned images of a variant, or the first of them; at least one entry."""
        folder = self._folders.get(variant.variant_index)
        if folder is not None:
            run = read_variant_run(folder)
            if run.timeline is not None and run.fold.seeds:
                return list(self._read_run(run))
        words = _why_no_run(variant)
        planned = range(1, min(variant.total_images, self._most) + 1)
        return [ShownImage(number=number, words=words) for number in planned or (None,)]

    def _read_run(self, run: VariantRun) -> Iterator[ShownImage]:
        assert run.timeline is not None
        result = run.fold.result(run.timeline)
        shown = min(len(run.fold.seeds), self._most)
        gaps = {gap.image_index: gap for gap in result.missing if gap.image_index < shown}
        images = {one.image_index: one for one in result.images[:shown] if one.image_index < shown}
        pictures = self._inspect(run, list(images.values()))
        prompts = StagePrompts(run.fold.opened)
        last = run.fold.planned_stage_ids()[-1]
        for index in range(shown):
            gap = gaps.get(index)
            why = why_not_made(run.fold, gap)[:_LONGEST_REASON] if gap is not None else ""
            if (image := images.get(index)) is not None:
                yield self._shown(run, image, pictures[index], prompts, why)
            else:
                yield ShownImage(
                    number=index + 1,
                    seed=run.fold.seeds[index],
                    prompt=self.prompts.place_of(prompts.of(last, index)),
                    words=why,
                )

    def _inspect(
        self, run: VariantRun, images: Sequence[FinishedImage]
    ) -> Mapping[int, InspectedImage]:
        """The states of the files by image index, with thumbnails while there is room for them."""
        files = [
            RecordedFile(
                one.path,
                one.sha256,
                one.stage_id,
                one.image_index,
                one.image_index in run.fold.stages[one.stage_id].removed,
            )
            for one in images
        ]
        thumbnails = self._characters_left > 0
        inspector = ImageInspector(run.folder, thumbnails=thumbnails, side=_THUMBNAIL_SIDE)
        found = inspector.inspect_all(files)
        for file, state in found.items():
            self.images += 1
            self._characters_left -= len(state.source)
            if state.wrong is not None:
                is_altered = state.wrong.state is FileState.ALTERED
                paths = self.altered if is_altered else self.missing
                paths.append(str(run.folder / file.path))
        return {file.image_index: state for file, state in found.items()}

    def _shown(
        self,
        run: VariantRun,
        image: FinishedImage,
        state: InspectedImage,
        prompts: StagePrompts,
        why_not_last: str,
    ) -> ShownImage:
        stage = run.fold.stages[image.stage_id]
        is_sound = state.wrong is None and image.image_index not in stage.removed
        width, height = _shown_size(image.width, image.height)
        link = link_to(run.folder, image.path, self._page) if is_sound else ""
        stages = run.fold.stages.values()
        reused = [one.stage_id for one in stages if image.image_index in one.reused]
        remarks = (
            f"of {image.stage_id}: {why_not_last}" if why_not_last else "",
            f"reused: {', '.join(reused)}" if reused else "",
        )
        return ShownImage(
            number=image.image_index + 1,
            seed=image.seed,
            prompt=self.prompts.place_of(prompts.of(image.stage_id, image.image_index)),
            words="" if is_sound else state.words,
            link=link,
            source=state.source,
            width=width,
            height=height,
            stage_id=image.stage_id,
            size=f"{image.width}\N{MULTIPLICATION SIGN}{image.height}, {byte_size(image.bytes)}",
            digest=image.source_sha256[:_DIGEST],
            remark="; ".join(filter(None, remarks)),
            rating=rating_text(self._ratings.of(image.source_sha256)),
        )


def _shown_size(width: int, height: int) -> tuple[int, int]:
    """The size of a picture on the page; a log that others wrote may have any size."""
    share = min(1.0, SHOWN_SIDE / max(width, height, 1))
    return max(1, round(width * share)), max(1, round(height * share))


def _why_no_run(variant: VariantResult) -> str:
    """Why no image of a variant can be shown."""
    if variant.state == REMOVED:
        return "its run was removed"
    if variant.state in _DAMAGE:
        return _DAMAGE[variant.state]
    if variant.state == MISSING:
        return "its run is not here"
    if variant.state != RunState.IDLE:
        return f"not made: its run is {variant.state}"
    if variant.error is not None:
        error = f"{variant.error.kind}: {variant.error.message}"
        return f"not begun: {error}"[:_LONGEST_REASON]
    return "not begun"
