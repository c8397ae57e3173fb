"""Writes the report of a group: one page with a cell for each variant, and links to its images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from markupsafe import Markup

from ....events.groups.fold import GroupFold
from ....events.groups.model import GroupOpened
from ....statemachine.groups.folder import variant_folders
from ....statemachine.groups.result import (
    CORRUPT,
    UNREADABLE,
    GroupResult,
    VariantResult,
    fold_group,
    group_result,
)
from ....statemachine.variants.axes import axis_keys
from ...event_text import backend_text, error_text
from ...projections.rating_text import shown_ratings
from ...projections.varied_values import varies_seed
from .page import MOOD_OF, head, json_block, visible, write_page
from .variant_grid import GridAxis, grids, has_columns
from .variant_images import ShownImage, VariantImages

REPORT_NAME = "report.html"
_STYLES = ("page.css", "viewer.css", "group.css", "print.css")
_SCRIPTS = ("elements.js", "viewer.js", "grid.js", "group.js")
_MOST_VARIANTS = 10_000
_LONGEST_PROMPT = 1_000
_MOOD_OF = {**MOOD_OF, CORRUPT: "error", UNREADABLE: "error"}


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


class _ShownVariant(msgspec.Struct, frozen=True, kw_only=True):
    """What the page shows of one variant; ``at`` has its places on the axes."""

    number: int
    run: str
    state: str
    mood: str
    error: str
    at: str
    images: Sequence[ShownImage]
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
    group = _GroupContent(folder, runs, output, thumbnails=thumbnails, on_variant=on_variant)
    return group.written(write_page(output, "group.html.j2", group.page))


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
        self._fold: GroupFold = fold_group(folder)
        folders = variant_folders(runs, self._fold.group_id, self._fold.run_ids)
        self._result: GroupResult = group_result(self._fold, folders)
        self._shown = self._result.variants[:_MOST_VARIANTS]
        self._axes = [GridAxis(axis) for axis in self._result.axes]
        self._output = output
        self._images = VariantImages(
            folders,
            output,
            shown_ratings(runs),
            thumbnails=thumbnails,
            variants=len(self._shown),
        )
        self._on_variant = on_variant
        self._written = 0

    def page(self) -> Mapping[str, Any]:
        """The context of the template."""
        opened, result = self._fold.opened, self._result
        assert opened is not None
        return {
            **head(_STYLES, _SCRIPTS),
            "group_id": result.group_id,
            "name": opened.name,
            "state": result.state,
            "mood": _MOOD_OF.get(result.state, "plain"),
            "counts": ", ".join(f"{number} {state}" for state, number in result.counts.items()),
            "error": error_text(result.error) if result.error else "",
            "facts": _facts(self._fold, opened),
            "left_out": len(result.variants) - len(self._shown),
            "grids": grids(self._axes, self._shown),
            "show": self._show,
            "data": self._data,
        }

    def written(self, size: int) -> WrittenGroupReport:
        """What was written; known once the page is."""
        return WrittenGroupReport(
            path=str(self._output),
            group_id=self._result.group_id,
            bytes=size,
            variants=len(self._shown),
            images=self._images.images,
            altered=tuple(self._images.altered),
            missing=tuple(self._images.missing),
        )

    def _show(self, variant: VariantResult) -> _ShownVariant:
        """Called by the template for one variant after the other."""
        images = self._images.read(variant)
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
            at=" ".join(str(axis.place(variant)) for axis in self._axes),
            images=images,
            more=max(0, variant.total_images - len(images)),
        )

    def _data(self) -> Markup:
        """What the script needs; known once all variants are shown."""
        axes = []
        for axis in self._axes:
            used = {axis.place(one): one for one in self._shown}
            values = {
                str(place): [visible(axis.label(one)), visible(axis.full_label(one))]
                for place, one in used.items()
            }
            axes.append({"name": visible(axis.name), "keys": axis.keys, "values": values})
        is_wide = has_columns(self._axes, self._shown)
        is_table = is_wide or len(self._axes) < 2
        return json_block(
            {
                "axes": axes,
                "rows": "0" if is_table and axes else "variant",
                "columns": "1" if is_wide else "",
                "prompts": [visible(text) for text in self._images.prompts.texts],
            }
        )


def _facts(fold: GroupFold, opened: GroupOpened) -> Mapping[str, Any]:
    is_varied = any("prompt" in axis_keys(axis) for axis in opened.axes)
    prompt = "" if is_varied else opened.config.get("prompt")
    facts: dict[str, Any] = {
        "Prompt": str(prompt)[:_LONGEST_PROMPT] if prompt else None,
        "Opened": opened.ts,
        "Ended": fold.sealed.ts if fold.sealed else None,
        "Seed": opened.config.get("seed", -1),
        "Backend": backend_text(opened.backend),
        "Software": opened.software,
        "Resumes": fold.resumes or None,
    }
    if varies_seed(opened.axes):
        facts["Seed"] = None
    elif facts["Seed"] == -1:
        facts["Seed"] = f"{opened.seed}, drawn once for all runs"
    return {name: value for name, value in facts.items() if value is not None}
