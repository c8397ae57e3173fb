"""The part of a Tk status bar that shows the group of a run."""

from __future__ import annotations

import tkinter
from tkinter import ttk

from ..projections.status import GroupStatus
from .labels import ElidedLabel, WrappedLabel

_STYLE = "Group.Horizontal.TProgressbar"
_THICKNESS = 6
"""The height of the bar in pixels; that of a run is higher."""


class GroupBar(ttk.Frame):
    """The variant, a thin bar with the percentage of the group, and its remaining time.

    It is hidden while there is no group.
    """

    def __init__(self, parent: tkinter.Misc, bar_length: int) -> None:
        super().__init__(parent)
        ttk.Style(self).configure(_STYLE, thickness=_THICKNESS)
        self._variant = ElidedLabel(self)
        self._bar = ttk.Progressbar(self, maximum=100.0, length=bar_length, style=_STYLE)
        self._detail = WrappedLabel(self)
        self._variant.grid(row=0, column=0, sticky="ew")
        self._bar.grid(row=1, column=0, sticky="ew", pady=4)
        self._detail.grid(row=2, column=0, sticky="ew")
        self.columnconfigure(0, weight=1)

    def show(self, now: GroupStatus) -> None:
        """Show the group of a status, or hide this where there is none."""
        if not now.group_headline:
            self.grid_remove()
            return
        self._variant.set_text(now.group_headline)
        self._bar["value"] = now.group_percentage or 0.0
        self._detail.set_text(now.group_detail)
        self.grid()
