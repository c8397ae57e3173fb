"""Labels for texts of any length: wrapped, or shortened with the full text as a tooltip."""

from __future__ import annotations

import tkinter
from bisect import bisect_right
from tkinter import font as fonts
from tkinter import ttk
from typing import Any

_MOST_LINES = 3
_TIP_WIDTH = 480
_FRAME = 4
"""The border of a label in pixels."""


def bold(widget: tkinter.Misc) -> fonts.Font:
    """The default font in bold."""
    plain = fonts.nametofont("TkDefaultFont", root=widget)
    made = plain.copy()
    made.configure(weight="bold")
    return made


class WrappedLabel(ttk.Label):
    """A label that wraps its text to the available width."""

    def __init__(self, parent: tkinter.Misc, **options: Any) -> None:
        super().__init__(parent, **options)
        self._font = options.get("font")
        self.bind("<Configure>", self._fit)

    def set_text(self, text: str) -> None:
        """Show a text, unless it is already shown."""
        if self["text"] != text:
            self["text"] = text

    def _fit(self, event: tkinter.Event[tkinter.Misc]) -> None:
        if event.width > _FRAME:
            self["wraplength"] = event.width - _FRAME


class ElidedLabel(WrappedLabel):
    """A label of at most three lines, hidden while empty; a tooltip shows the full text."""

    def __init__(self, parent: tkinter.Misc, **options: Any) -> None:
        super().__init__(parent, **options)
        self._whole = ""
        self._width = 0
        self._tip: tkinter.Toplevel | None = None
        line = fonts.nametofont("TkDefaultFont", root=parent).metrics("linespace")
        self._highest = _MOST_LINES * line + line // 2
        self.bind("<Enter>", self._show_tip)
        self.bind("<Leave>", self._hide_tip)

    def set_text(self, text: str) -> None:
        if text == self._whole:
            return
        self._whole = text
        self._hide_tip()
        self._draw()
        if text:
            self.grid()
        else:
            self.grid_remove()

    def _fit(self, event: tkinter.Event[tkinter.Misc]) -> None:
        super()._fit(event)
        if event.width > _FRAME and event.width != self._width:
            self._width = event.width
            self._draw()

    def _draw(self) -> None:
        """Show the text, or as much as fits followed by three dots."""
        if self._height_of(self._whole) > self._highest and self._width:
            ends = range(len(self._whole))
            fits = bisect_right(
                ends, self._highest, key=lambda end: self._height_of(self._cut(end))
            )
            super().set_text(self._cut(max(0, fits - 1)))

    def _cut(self, end: int) -> str:
        return f"{self._whole[:end].rstrip()}..."

    def _height_of(self, text: str) -> int:
        super().set_text(text)
        return self.winfo_reqheight()

    def _show_tip(self, _event: object) -> None:
        if self["text"] == self._whole or self._tip is not None:
            return
        self._tip = tip = tkinter.Toplevel(self)
        tip.wm_overrideredirect(boolean=True)
        tip.wm_geometry(f"+{self.winfo_rootx()}+{self.winfo_rooty() + self.winfo_height()}")
        ttk.Label(tip, text=self._whole, wraplength=_TIP_WIDTH, padding=6, relief="solid").grid()

    def _hide_tip(self, _event: object = None) -> None:
        if self._tip is not None:
            self._tip.destroy()
            self._tip = None
