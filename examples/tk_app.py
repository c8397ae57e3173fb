"""A window that runs a configuration, or a sweep: Start, Cancel, Resume, progress, the last image.

    python examples/tk_app.py examples/portrait.toml [--runs DIR] [--server URL]

Below the image it shows the queue of the folder, which any program may add to and work on.

Nothing of it waits for a run: what takes time is done on threads beside Tk's, and comes back
through ``bar.loop``. With ``txt2img.steps=20,30`` under Vary, Start begins a group of runs.
"""

from __future__ import annotations

import argparse
import io
import threading
import tkinter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from tkinter import filedialog, ttk

from PIL import Image
from stagewright.adapters import open_controller
from stagewright.adapters.projections.queue_table import SqliteJobTable
from stagewright.adapters.tk import TkStatusBar
from stagewright.events import (
    RunNotFoundError,
    RunState,
    StageImageProgress,
    StagewrightError,
)
from stagewright.events.queue.jobs import JobState
from stagewright.statemachine import (
    ConfigurationError,
    GroupHandle,
    InvalidTransitionError,
    JobQueue,
    PipelineController,
    RunHandle,
)

PREVIEW = (384, 384)
QUEUE_EVERY_S = 0.5
NEXT_JOBS = 3
RESUMABLE = (RunState.ERROR, RunState.CANCELLED)


class App(ttk.Frame):
    """One controller, a status bar attached to it, and buttons that start and resume runs."""

    def __init__(self, window: tkinter.Tk, controller: PipelineController, config: str) -> None:
        super().__init__(window, padding=8)
        self.controller = controller
        self.config_path = tkinter.StringVar(value=config)
        self.vary = tkinter.StringVar()
        self.bar = TkStatusBar(self, controller)
        self.handle: RunHandle | GroupHandle | None = None
        self.beginning = threading.Thread()
        self.build()
        self.update_buttons()
        # Decoding takes a while: it is done on a worker, and only the result comes to Tk.
        self.bar.loop.subscribe(self.load_preview, StageImageProgress, on="worker")
        self.is_closed = threading.Event()
        threading.Thread(target=self.watch_queue, daemon=True).start()

    def build(self) -> None:
        entry = ttk.Entry(self, textvariable=self.config_path, width=36)
        browse = ttk.Button(self, text="Browse...", command=self.browse)
        self.start_button = ttk.Button(self, text="Start", command=self.start)
        self.resume_button = ttk.Button(self, text="Resume", command=self.resume, state="disabled")
        self.preview = ttk.Label(self, anchor="center", text="no image yet")
        self.queue = ttk.Label(self, text="")
        entry.grid(row=0, column=0, sticky="ew")
        for place, button in enumerate((browse, self.start_button, self.resume_button), start=1):
            button.grid(row=0, column=place, padx=(8, 0))
        ttk.Entry(self, textvariable=self.vary).grid(row=1, column=0, sticky="ew", pady=(8, 0))
        ttk.Label(self, text="Vary: KEY=V1,V2,...").grid(row=1, column=1, columnspan=3, padx=8)
        self.preview.grid(row=2, column=0, columnspan=4, sticky="nsew", pady=8)
        self.queue.grid(row=3, column=0, columnspan=4, sticky="ew", pady=(0, 8))
        self.bar.grid(row=4, column=0, columnspan=4, sticky="ew")
        self.columnconfigure(0, weight=1)
        # The preview alone gives way in a small window, so that Cancel stays visible.
        self.rowconfigure(2, weight=1)

    def browse(self) -> None:
        chosen = filedialog.askopenfilename(filetypes=[("Configurations", "*.toml *.yaml *.json")])
        if chosen:
            self.config_path.set(chosen)

    def start(self) -> None:
        config, vary = Path(self.config_path.get()), self.vary.get().strip()
        if vary:
            self.beside(lambda: self.controller.start_group(config, vary=[vary]))
        else:
            self.beside(lambda: self.controller.start(config))

    def resume(self) -> None:
        now = self.bar.status
        if now.group_id:
            self.beside(lambda: self.controller.resume_group(now.group_id))
        else:
            self.beside(lambda: self.controller.resume(now.run_id))

    def beside(self, begin: Callable[[], RunHandle | GroupHandle]) -> None:
        """Begin a run on another thread: servers are asked and files checked before."""

        def work() -> None:
            try:
                self.handle = begin()
            except ConfigurationError:
                pass  # The bar has been told, and shows it.
            except StagewrightError as error:
                self.bar.tell(f"Error: {error}")

        self.start_button["state"] = self.resume_button["state"] = "disabled"
        self.beginning = threading.Thread(target=work)
        self.beginning.start()

    def update_buttons(self) -> None:
        now, controller = self.bar.status, self.controller
        is_running = (controller.current_run_id or controller.current_group_id) is not None
        is_busy = self.beginning.is_alive() or is_running
        is_resumable = not is_busy and (now.state in RESUMABLE or now.group_state in RESUMABLE)
        self.start_button["state"] = "disabled" if is_busy else "normal"
        self.resume_button["state"] = "normal" if is_resumable else "disabled"
        self.after(100, self.update_buttons)

    def leave(self) -> None:
        """The window is closed: stop the run or group that is under way, and wait for its end."""
        self.is_closed.set()
        if self.beginning.is_alive():
            self.beginning.join()
        if self.handle is not None and not self.handle.wait_ended(0):
            with suppress(InvalidTransitionError, RunNotFoundError):  # It has just ended.
                self.controller.cancel(self.handle.id, reason="the window was closed")
            self.handle.wait_ended()

    def watch_queue(self) -> None:
        """Show the queue as it is, until the window closes; on a thread of its own."""
        queue = JobQueue(self.controller.runs, table=SqliteJobTable(self.controller.runs))
        shown = None
        while not self.is_closed.wait(QUEUE_EVERY_S):
            try:
                text = queue_text(queue)
            except (StagewrightError, OSError) as error:
                text = f"queue: {error}"
            if text != shown:
                shown = text
                with suppress(RuntimeError):  # The window is gone.
                    self.bar.loop(partial(self.queue.configure, text=text))

    def load_preview(self, event: StageImageProgress) -> None:
        with Image.open(event.artifact.file) as picture:
            picture.thumbnail(PREVIEW)
            stream = io.BytesIO()
            picture.save(stream, "PNG")
        self.bar.loop(lambda: self.show_preview(stream.getvalue()))

    def show_preview(self, data: bytes) -> None:
        self.picture = tkinter.PhotoImage(data=data)  # Tk keeps no reference of its own.
        self.preview.configure(image=self.picture)


def queue_text(queue: JobQueue) -> str:
    """The job in progress, the next ones, and how many more wait; "" for an empty queue."""
    running = queue.jobs(JobState.RUNNING)
    waiting = queue.jobs(JobState.WAITING, most=NEXT_JOBS)
    more = queue.counts()[JobState.WAITING] - len(waiting)
    lines = [f"queue: {job.name} is running" for job in running]
    lines += [f"queue: {job.name} waits" for job in waiting]
    return "\n".join([*lines, *([f"queue: {more} more wait"] if more else [])])


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a configuration in a window.")
    parser.add_argument("config", nargs="?", default="", help="configuration file")
    parser.add_argument("--runs", default="runs", help="folder of the runs")
    parser.add_argument("--server", help="address of a WebUI server; else the embedded backend")
    options = parser.parse_args()
    controller = open_controller(options.runs, options.server)
    window = tkinter.Tk()
    window.title("stagewright")
    window.geometry(f"{PREVIEW[0] + 96}x{PREVIEW[1] + 176}")
    app = App(window, controller, options.config)
    app.pack(fill="both", expand=True)
    window.mainloop()
    app.leave()


if __name__ == "__main__":
    main()
