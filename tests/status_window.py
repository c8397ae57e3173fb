"""A window with a status bar that a test works from outside: commands in, answers out.

    python -m tests.status_window RUNS SERVER [PROGRAM CONFIG]

SERVER may be empty; PROGRAM is one with an ``App``, as ``examples/tk_app.py`` has. Each line of
standard input is a JSON document with ``do``; each answer is one line of JSON.
Commands are carried out on Tk's thread, as presses of keys and buttons are.
"""

from __future__ import annotations

import contextlib
import json
import runpy
import sys
import threading
import time
import tkinter
from collections.abc import Iterator
from pathlib import Path
from tkinter import ttk
from typing import Any

from stagewright.adapters import open_controller
from stagewright.adapters.tk import TkLoop, TkStatusBar
from stagewright.adapters.tk.group_bar import GroupBar
from stagewright.events import StagewrightError
from stagewright.statemachine import PipelineController

from .group_runs import HeldBackend, start_group
from .support import controller


class Window:
    """What the commands work on."""

    def __init__(self, runs: str, server: str, program: str = "", config: str = "") -> None:
        self.controller = open_controller(runs, server or None)
        self.root = tkinter.Tk()
        self.errors: list[str] = []
        self.root.report_callback_exception = self.note
        self.loop = TkLoop(self.root)
        self.leave = self.wait
        self.group_controller = self.controller
        if program:
            app = runpy.run_path(program)["App"](self.root, self.controller, config)
            app.pack(fill="both", expand=True)
            self.bars = [app.bar]
            self.leave = app.leave
        else:
            self.root.geometry("460x150+0+0")
            self.bars = [TkStatusBar(self.root, self.controller)]
            self.bars[0].pack(fill="x")

    def note(self, kind: type[BaseException], error: BaseException, _traceback: object) -> None:
        self.errors.append(f"{kind.__name__}: {error}")

    def wait(self) -> None:
        """Wait for the end of the run and of the group that are under way."""
        while self.controller.current_run_id or self.group_controller.current_group_id:
            time.sleep(0.01)

    def start(self, config: Any) -> None:
        """Begin a run beside Tk, as programs do."""
        threading.Thread(target=self._begin, args=(config,)).start()

    def _begin(self, config: Any) -> None:
        try:
            self.controller.start(Path(config) if isinstance(config, str) else config)
        except StagewrightError:
            return  # The bar tells of it.

    def show(self, folder: str) -> None:
        self.bars[0].show(folder)

    def another(self, folder: str) -> None:
        """One more bar, without a controller, that shows this run."""
        self.bars.append(TkStatusBar(self.root))
        self.bars[-1].pack(fill="x")
        self.bars[-1].show(folder)

    def group(self, steps: list[int], held: list[int]) -> None:
        """One more bar, with a controller of its own that runs a group beside Tk."""
        start_group(self.group_bar(held), steps)

    def resume_group(self, held: list[int]) -> None:
        """One more bar, with a controller of its own that resumes the last group."""
        self.group_bar(held).resume_group("last-group")

    def group_bar(self, held: list[int]) -> PipelineController:
        """The controller of one more bar, whose backend waits at the held requests."""
        self.held = HeldBackend(*held)
        self.group_controller = controller(self.controller.runs, self.held)
        self.bars.append(TkStatusBar(self.root, self.group_controller))
        self.bars[-1].pack(fill="x")
        return self.group_controller

    def let_go(self) -> None:
        """Let one held request of a group go on."""
        self.held.let_go()

    def press(self, text: str, times: int = 1) -> list[str]:
        """Press the button with this text with the mouse, whether or not it can be pressed.

        Its text and its state after that.
        """
        button = self.button(text)
        for _ in range(times):
            for what in ("<Enter>", "<ButtonPress-1>", "<ButtonRelease-1>"):
                button.event_generate(what, x=5, y=5)
        return [str(button["text"]), str(button["state"])]

    def type(self, place: int, text: str) -> None:
        """Type into the entry at this place, from 0."""
        entry = [one for one in parts(self.root) if isinstance(one, ttk.Entry)][place]
        entry.insert("end", text)

    def can_press(self, text: str) -> bool:
        """Whether pressing it would do anything."""
        return str(self.button(text)["state"]) == "normal"

    def is_inside(self, text: str) -> bool:
        """Whether the whole button is within the window."""
        self.root.update()
        left, top, width, height = place_of(self.button(text))
        x, y, *size = place_of(self.root)
        return x <= left and left + width <= x + size[0] and top + height <= y + size[1]

    def has_text(self, text: str) -> bool:
        """Whether some label of the window shows this text."""
        labels = [one for one in parts(self.root) if isinstance(one, ttk.Label)]
        return any(text in str(one["text"]) for one in labels)

    def button(self, text: str) -> ttk.Button:
        buttons = [one for one in parts(self.root) if isinstance(one, ttk.Button)]
        return next(one for one in buttons if str(one["text"]) == text)

    def point(self) -> None:
        """Point at the lowest label."""
        label = [one for one in parts(self.bars[0]) if isinstance(one, ttk.Label)][-1]
        label.event_generate("<Enter>", x=5, y=5)

    def size(self, width: int, height: int) -> None:
        self.root.geometry(f"{width}x{height}+0+0")

    def close_bar(self) -> None:
        """Destroy the first bar, and keep its window."""
        self.bars.pop(0).destroy()

    def end_with(self, way: str) -> None:
        """Close the window soon: as programs do, or past Python, as window managers do."""
        ends = {"destroy": self.root.destroy, "native": lambda: self.root.tk.call("destroy", ".")}
        self.root.after(20, ends[way])

    def look(self, bar: int = 0) -> dict[str, Any]:
        """Everything that can be seen of a bar; ``cut`` are texts that have too little room."""
        self.root.update()
        seen: dict[str, Any] = {"labels": [], "cut": [], "tips": []}
        for one in parts(self.bars[bar]):
            if isinstance(one, ttk.Button):
                seen["button"] = (str(one["text"]), str(one["state"]))
            elif isinstance(one, ttk.Progressbar) and isinstance(one.master, GroupBar):
                if one.winfo_ismapped():
                    seen["group_value"], seen["group_bar"] = float(one["value"]), place_of(one)
            elif isinstance(one, ttk.Progressbar):
                seen["value"], seen["bar"] = float(one["value"]), place_of(one)
            elif isinstance(one, tkinter.Toplevel):
                seen["tips"] += [str(inner["text"]) for inner in one.winfo_children()]
            elif isinstance(one, ttk.Label) and one.winfo_ismapped():
                seen["labels"].append(str(one["text"]))
                _, _, width, height = place_of(one)
                if one.winfo_reqwidth() > width or one.winfo_reqheight() > height:
                    seen["cut"].append(str(one["text"]))
        return seen

    def state(self) -> dict[str, Any]:
        """What the program knows."""
        threads = [one.name for one in threading.enumerate()]
        return {
            "run": self.controller.current_run_id,
            "subscriptions": threads.count("stagewright-subscription"),
        }


def place_of(widget: tkinter.Misc) -> tuple[int, int, int, int]:
    """Left, top, width and height on the display, in pixels."""
    return (
        widget.winfo_rootx(),
        widget.winfo_rooty(),
        widget.winfo_width(),
        widget.winfo_height(),
    )


def say(answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def parts(widget: tkinter.Misc) -> Iterator[Any]:
    for child in widget.winfo_children():
        if isinstance(child, ttk.Widget | tkinter.Toplevel):
            yield child
            if not isinstance(child, tkinter.Toplevel):
                yield from parts(child)


def obey(window: Window) -> None:
    """Carry out what comes; runs beside Tk, and ends the window with the input."""
    for line in sys.stdin:
        order = json.loads(line)
        answered = threading.Event()

        def carry_out(order: dict[str, Any] = order, answered: threading.Event = answered) -> None:
            try:
                say(getattr(window, order.pop("do"))(**order))
            except Exception as error:
                say({"failed": repr(error)})
                raise
            finally:
                answered.set()

        window.loop(carry_out)
        answered.wait()
    with contextlib.suppress(RuntimeError):  # It may have been closed in another way.
        window.loop(window.root.destroy)


def main() -> None:
    window = Window(*sys.argv[1:])
    threading.Thread(target=obey, args=(window,), daemon=True).start()
    window.root.mainloop()
    window.leave()
    say({"errors": window.errors})


if __name__ == "__main__":
    main()
