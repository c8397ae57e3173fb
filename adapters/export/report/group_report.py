"""Writes the report of a group: one page with a cell for each variant, and links to its images."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
from markupsafe import Markup

from ....events.groups.fold import GroupFold
from ....events.groups.model import GroupOpened
from ....events.model import RunState
from ....events.version import VERSION
from ....statemachine.files.recorded_files import FileState, RecordedFile
from ....statemachine.groups.folder import variant_folders
from ....statemachine.groups.result import (
    CORRUPT,
    UNREADABLE,
    GroupResult,
    VariantResult,
    VariantRun,
    group_result,
    read_group,
    read_variant_run,
)
from ..output_file import atomic_output
from .page import FIRST_BYTES, assets, render
from .pictures import ImageInspector
from .report_file import check_output
from .variant_grid import grids

REPORT_NAME = "report.html"
_STYLES = ("page.css", "group.css", "print.css")
_MOST_VARIANTS = 10_000
_MOST_IMAGES = 8
"""Images that are shown of one run; the others are counted."""
_MOOD_OF = {
    str(RunState.COMPLETED): "good",
    str(RunState.CANCELLED): "warning",
    str(RunState.RUNNING): "busy",
    str(RunState.ERROR): "error",
    CORRUPT: "error",
    UNREADABLE: "error",
}


class WrittenGroupReport(msgspec.Struct, frozen=True, kw_only=True):
    """A report of a group that was written.

    ``images`` are the final images of all runs that are shown; ``altered`` and ``missing`` (or
    unreadable) are paths of recorded files.
    """

    path: str
    group_id: str
    bytes: int
    variants: int
    images: int
    altered: tuple[str, ...]
    missing: tuple[str, ...]


class _ShownImage(msgspec.Struct, frozen=True, kw_only=True):
    """A final image of a run: its link from the page, its thumbnail, or ``words`` in its place."""

    number: int
    link: str
    source: str
    words: str
    seed: int


class _ShownVariant(msgspec.Struct, frozen=True, kw_only=True):
    """What the page shows of one variant."""

    number: int
    run: str
    state: str
    mood: str
    error: str
    images: Sequence[_ShownImage]
    more: int


def write_group_report(
    folder: Path,
    runs: Path,
    output: Path,
    *,
    thumbnails: bool = True,
    on_variant: Callable[[int, int], None] | None = None,
) -> WrittenGroupReport:
    """Write the report of the group in ``folder`` to ``output``, in place of an earlier report.

    Its runs are below ``runs``; one of them at a time is in memory. ``on_variant`` receives the
    number of variants that are written and their total. Raises ReportRefusedError if ``output`` is
    another file, GroupNotFoundError, LogCorruptError, OSError; nothing is written then.
    """
    check_output(output)
    group = _GroupContent(folder, runs, output, thumbnails=thumbnails, on_variant=on_variant)
    with atomic_output(output) as stream:
        page = io.TextIOWrapper(stream, encoding="utf-8", newline="\n")
        page.writelines(render("group.html.j2", group.page()))
        page.flush()
        size = stream.tell()
        page.detach()
    return group.written(size)


class _GroupContent:
    """What the page shows of a group; variants are read when the page is written."""

    def __init__(
        self,
        folder: Path,
        runs: Path,
        output: Path,
        *,
        thumbnails: bool,
        on_variant: Callable[[int, int], None] | None,
    ) -> None:
        self._fold: GroupFold = read_group(folder)
        self._folders = variant_folders(runs, self._fold.group_id, self._fold.run_ids)
        self._result: GroupResult = group_result(self._fold, self._folders)
        self._shown = self._result.variants[:_MOST_VARIANTS]
        self._output = output
        self._thumbnails = thumbnails
        self._on_variant = on_variant
        self._written = self._images = 0
        self._altered: list[str] = []
        self._missing: list[str] = []

    def page(self) -> Mapping[str, Any]:
        """The context of the template."""
        opened, result = self._fold.opened, self._result
        assert opened is not None
        return {
            **assets(_STYLES, ()),
            "first": Markup(FIRST_BYTES.decode()),  # noqa: S704 - our own text
            "version": VERSION,
            "group_id": result.group_id,
            "name": opened.name,
            "state": result.state,
            "mood": _MOOD_OF.get(result.state, "plain"),
            "counts": ", ".join(f"{number} {state}" for state, number in result.counts.items()),
            "facts": _facts(self._fold, opened),
            "left_out": len(result.variants) - len(self._shown),
            "grids": grids(result.axes, self._shown),
            "show": self._show,
        }

    def written(self, size: int) -> WrittenGroupReport:
        """What was written; known once the page is."""
        return WrittenGroupReport(
            path=str(self._output),
            group_id=self._result.group_id,
            bytes=size,
            variants=len(self._shown),
            images=self._images,
            altered=tuple(self._altered),
            missing=tuple(self._missing),
        )

    def _show(self, variant: VariantResult) -> _ShownVariant:
        """Called by the template for one variant after the other."""
        folder = self._folders.get(variant.variant_index)
        images: Sequence[_ShownImage] = ()
        if folder is not None:
            images = list(self._show_images(read_variant_run(folder)))
        self._written += 1
        if self._on_variant is not None:
            self._on_variant(self._written, len(self._shown))
        error = variant.error
        return _ShownVariant(
            number=variant.variant_index + 1,
            run=variant.run_id or "",
            state=variant.state,
            mood=_MOOD_OF.get(variant.state, "plain"),
            error=f"{error.kind}: {error.message}" if error else "",
            images=images,
            more=max(0, variant.images - len(images)),
        )

    def _show_images(self, run: VariantRun) -> Iterator[_ShownImage]:
        if run.timeline is None:
            return
        found = run.fold.result(run.timeline).images[:_MOST_IMAGES]
        files = [
            RecordedFile(
                one.path,
                one.sha256,
                one.stage_id,
                one.image_index,
                one.image_index in run.fold.stages[one.stage_id].removed,
            )
            for one in found
        ]
        inspected = ImageInspector(run.folder, thumbnails=self._thumbnails).inspect_all(files)
        for image, file in zip(found, files, strict=True):
            self._images += 1
            state = inspected[file]
            if state.wrong is not None:
                wrong = self._altered if state.wrong.state is FileState.ALTERED else self._missing
                wrong.append(str(run.folder / image.path))
            yield _ShownImage(
                number=image.image_index + 1,
                link="" if state.wrong or file.removed else self._link(run.folder / image.path),
                source=state.source,
                words=state.words,
                seed=image.seed,
            )

    def _link(self, file: Path) -> str:
        """The address of a file from the page."""
        try:
            relative = os.path.relpath(file.absolute(), self._output.absolute().parent)
        except ValueError:  # on another drive
            return file.absolute().as_uri()
        return quote(Path(relative).as_posix())


def _facts(fold: GroupFold, opened: GroupOpened) -> Mapping[str, Any]:
    backend = opened.backend
    named = (backend.product or backend.kind, backend.version, backend.url)
    facts: dict[str, Any] = {
        "Opened": opened.ts,
        "Ended": fold.sealed.ts if fold.sealed else None,
        "Seed": opened.config.get("seed", -1),
        "Backend": " ".join(part for part in named if part),
        "Software": opened.software,
        "Resumes": fold.resumes or None,
    }
    if facts["Seed"] == -1:
        facts["Seed"] = f"{opened.seed}, drawn once for all runs"
    return {name: value for name, value in facts.items() if value is not None}
