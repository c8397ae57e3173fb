"""Messages about runs and groups, received by a real web hook, mail server and command."""

from __future__ import annotations

import io
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from stagewright.adapters.errors import UserCommandError
from stagewright.adapters.notifications.channels import NotDeliveredError, find_channels
from stagewright.adapters.notifications.messages import Message, queue_message
from stagewright.adapters.notifications.notifier import PAUSES_S, Notifier
from stagewright.adapters.notifications.settings import NotifySettings
from stagewright.adapters.user_commands import run_command
from stagewright.events.queue.jobs import JobState
from stagewright.events.queue.model import JobKind, PauseMode
from stagewright.statemachine import JobQueue, NewJob

from .command_line import SMALL, Start, stagewright, until, write_config
from .queueing import new_job
from .receiving import MailServer, WebHook
from .serving import serving
from .webui_server import ScriptedWebUI

SECRET = "hush-7f3a9c"
"""In the address of the web hook, where many services have a token."""


@pytest.fixture
def hook() -> Iterator[WebHook]:
    with WebHook() as made:
        made.listen()
        yield made


@pytest.fixture
def mails() -> Iterator[MailServer]:
    with MailServer() as made:
        yield made


@pytest.fixture
def webui() -> Iterator[ScriptedWebUI]:
    with ScriptedWebUI() as made:
        yield made


class Told:
    """A command that writes down what it is told."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "told.jsonl"
        copy = str(folder / "copy.jpg")
        script = f"""if True:
            import os, sys
            open({str(self.file)!r}, "a").write(sys.stdin.read() + "\\n")
            picture = os.environ.get("STAGEWRIGHT_NOTIFY_PICTURE")
            if picture:
                open({copy!r}, "wb").write(open(picture, "rb").read())
        """
        self.command = [sys.executable, "-c", script]

    @property
    def facts(self) -> list[dict[str, Any]]:
        if not self.file.exists():
            return []
        return [json.loads(line) for line in self.file.read_text("utf-8").splitlines() if line]


def settings(folder: Path, **notify: Any) -> tuple[str, Path]:
    """The option that names a file of settings with this table."""
    path = folder / "settings.toml"
    lines = [f"{key} = {json.dumps(value)}" for key, value in notify.items()]
    path.write_text("[notify]\n" + "\n".join(lines), encoding="utf-8")
    return "--config-file", path


@pytest.mark.lowest
def test_a_completed_run_is_told_once_to_everybody(
    hook: WebHook, mails: MailServer, tmp_path: Path
) -> None:
    """With the facts, and a small picture of the last image; a resume with nothing to do is not."""
    mails.listen()
    told = Told(tmp_path)
    config = write_config(tmp_path, SMALL.replace("width = 64", "width = 512"))
    option = settings(tmp_path, command=told.command, urls=[hook.url, mails.url])
    done = stagewright(*option, "run", config, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not delivered" not in done.stderr
    assert stagewright(*option, "resume", "last", folder=tmp_path).returncode == 0
    (posted,), (mail,), (facts,) = hook.received, mails.received, told.facts
    assert posted["title"] == mail["Subject"] == "stagewright: small completed"
    assert posted["message"].startswith("2 of 2 images in ")
    assert posted["message"].endswith(f"\n{facts['run_id']}")
    assert [len(posted["attachments"]), facts["event"]] == [1, "completed"]
    (attached,) = [part for part in mail.walk() if part.get_content_maintype() == "image"]
    assert Image.open(io.BytesIO(attached.get_payload(decode=True))).size == (320, 40)  # type: ignore[arg-type]  # bytes, once decoded
    with Image.open(tmp_path / "copy.jpg") as copy:
        assert copy.size == (320, 40)
    assert (facts["images"], facts["state"], facts["error"]) == (2, "COMPLETED", None)
    assert Path(facts["image"]).parent.parent.parent == Path(facts["folder"])
    assert not Path(facts["picture"]).exists()
    assert SECRET not in done.stderr + done.stdout
    for path in (tmp_path / "runs").rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes()


def test_a_failed_run_is_told(hook: WebHook, webui: ScriptedWebUI, tmp_path: Path) -> None:
    """With its error; the exit status is that of the run."""
    webui.refuse()
    config = write_config(tmp_path, SMALL + "[server]\nretries = 0\nwait_s = 0\n")
    option = settings(tmp_path, urls=[hook.url])
    arguments = ("run", config, "--server", webui.url, "--no-preflight")
    assert stagewright(*option, *arguments, folder=tmp_path).returncode == 1
    (posted,) = hook.received
    assert (posted["title"], posted["type"]) == ("stagewright: small failed", "failure")
    assert "0 of 2 images" in posted["message"]
    assert "ServerUnreachableError" in posted["message"]


def test_a_stalled_run_is_told_once_until_it_goes_on(
    hook: WebHook, webui: ScriptedWebUI, start: Start, tmp_path: Path
) -> None:
    """And that it was cancelled in the end."""
    config = write_config(tmp_path)
    option = settings(tmp_path, urls=[hook.url], stalled_minutes=0.01)
    with webui.hold():
        run = start(*option, "run", config, "--server", webui.url, "--no-preflight",
                    folder=tmp_path)  # fmt: skip
        until(lambda: bool(hook.received), "the message of the stall")
        done = stagewright("cancel", "last", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        run.communicate(timeout=30)
    assert run.returncode == 3
    assert hook.titles == ["stagewright: small stalled", "stagewright: small cancelled"]
    assert hook.received[0]["message"].startswith("no image was finished for ")


def test_a_group_is_told_once(hook: WebHook, tmp_path: Path) -> None:
    """Not each of its runs; an occasion that is not wanted is not told."""
    config = write_config(tmp_path, SMALL.replace("images = 2", "images = 1"))
    arguments = ("run", config, "--vary", "cfg_scale=5,6", "--set", "txt2img.steps=1")
    wanted = settings(tmp_path, urls=[hook.url], on=["completed"])
    assert stagewright(*wanted, *arguments, folder=tmp_path).returncode == 0
    (posted,) = hook.received
    assert posted["title"] == "stagewright: small completed"
    assert posted["message"].startswith("2 COMPLETED of 2 variants in ")
    assert len(posted["attachments"]) == 1
    unwanted = settings(tmp_path, urls=[hook.url], on=["failed"])
    assert stagewright(*unwanted, *arguments, folder=tmp_path).returncode == 0
    assert len(hook.received) == 1


def test_a_worker_tells_of_each_job_and_of_the_empty_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message each: for a job that is completed, one whose run cannot begin, and the end."""
    told = Told(tmp_path)
    _, path = settings(tmp_path, command=told.command)
    monkeypatch.setenv("STAGEWRIGHT_CONFIG_FILE", str(path))
    runs = tmp_path / "runs"
    JobQueue(runs).add([new_job("good"), NewJob(job=JobKind.RUN, name="bad")])
    done = stagewright("queue", "work", "--exit-when-empty", folder=tmp_path)
    assert done.returncode == 1, done.stderr
    good, bad, empty = told.facts
    assert (good["event"], good["outcome"]) == ("completed", "completed")
    assert (bad["event"], bad["title"]) == ("failed", "stagewright: bad failed")
    assert "no run of it was recorded" in bad["error"]
    assert (empty["event"], empty["jobs"]) == ("queue-empty", 2)
    assert (empty["title"], empty["body"]) == ("stagewright: queue is empty", "2 jobs done")


def test_a_job_that_a_pause_has_stopped_does_not_stall(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No message is sent while the queue is paused."""
    told = Told(tmp_path)
    _, path = settings(tmp_path, command=told.command, stalled_minutes=0.01)
    monkeypatch.setenv("STAGEWRIGHT_CONFIG_FILE", str(path))
    runs = tmp_path / "runs"
    small = SMALL.replace("base.safetensors", "sd_xl_base_1.0.safetensors")
    write_config(tmp_path, small.replace("images = 2", "images = 40"))
    with serving(step_delay_s=0.02) as server:
        queue = JobQueue(runs)
        queue.add_server(server.url)
        assert stagewright("queue", "add", "small.toml", folder=tmp_path).returncode == 0
        worker = start("queue", "work", folder=tmp_path)
        until(lambda: any(runs.glob("*/images/*/*.png")), "an image")
        queue.pause(PauseMode.AFTER_IMAGE)
        until(lambda: queue.counts()[JobState.WAITING] == 1, "the job waits")
        before = [facts["event"] for facts in told.facts]
        time.sleep(1.2)  # twice as long as it takes until a run counts as stalled
        worker.terminate()
        worker.communicate(timeout=30)
    assert [facts["event"] for facts in told.facts] == before == []


def test_no_message_is_lost_while_the_services_are_down(
    mails: MailServer, start: Start, tmp_path: Path
) -> None:
    """The run has ended, and its command waits until they are back."""
    told = Told(tmp_path)
    with WebHook() as hook:
        option = settings(tmp_path, command=told.command, urls=[hook.url, mails.url])
        run = start(*option, "run", write_config(tmp_path), folder=tmp_path)
        assert run.stderr is not None
        lines = iter(run.stderr.readline, "")
        assert any("until notifications are delivered" in line for line in lines)
        hook.listen()
        mails.listen()
        run.communicate(timeout=60)
        assert run.returncode == 0
        assert len(hook.received) == len(mails.received) == len(told.facts) == 1


def test_a_run_does_not_wait_for_a_service(tmp_path: Path) -> None:
    """Messages for one that never answers are queued at once, and dropped beyond a hundred."""
    never = threading.Event()

    class Hanging:
        name = "hanging"

        def deliver(self, message: Message) -> None:
            del message
            never.wait()

    notifier = Notifier((Hanging(),))
    began = time.monotonic()
    for jobs in range(300):
        notifier.send(queue_message(tmp_path, jobs))
    assert time.monotonic() - began < 2
    assert not notifier.wait(0.05)
    notifier.close()
    never.set()


def test_a_command_that_takes_too_long_is_ended() -> None:
    """The error names the program, and not its arguments."""
    command = [sys.executable, "-c", "import time; time.sleep(3600)", SECRET]
    began = time.monotonic()
    with pytest.raises(UserCommandError, match=r"took more than 0.2 s$") as raised:
        run_command(command, {"event": "completed"}, prefix="TEST_", limit_s=0.2)
    assert time.monotonic() - began < 30
    assert SECRET not in str(raised.value)


def test_a_message_is_tried_again_until_it_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """The others are delivered all the same, and an error of any kind shows no secret."""
    tried: list[str] = []

    class Failing:
        name = "failing"

        def deliver(self, message: Message) -> None:
            tried.append(message.title)
            if len(tried) == 1:
                raise NotDeliveredError("not now")
            if message.facts["jobs"]:
                raise RuntimeError(f"discord://{SECRET}")

    notifier = Notifier((Failing(),), pauses_s=(0.0, 0.0))
    notifier.send(queue_message(Path("runs"), 0))
    notifier.send(queue_message(Path("runs"), 1))
    assert notifier.wait(10)
    assert len(tried) == 2 + 3
    assert caplog.text.count("'stagewright: queue is empty' not delivered: RuntimeError") == 1
    assert SECRET not in caplog.text


def test_a_receiver_that_is_wrong_is_tried_once(tmp_path: Path) -> None:
    """A run whose settings name no program or address does not wait for further tries."""
    option = settings(
        tmp_path, command=[str(tmp_path / "missing"), SECRET], urls=[f"foo://{SECRET}"]
    )
    config = write_config(tmp_path)
    began = time.monotonic()
    done = stagewright(*option, "run", config, folder=tmp_path)
    assert done.returncode == 0
    assert time.monotonic() - began < sum(PAUSES_S)
    told = [line for line in done.stderr.splitlines() if "not delivered" in line]
    assert len(told) == 2
    assert any("cannot be started" in line for line in told)
    assert any("not an address that Apprise knows" in line for line in told)
    assert SECRET not in done.stderr


def test_a_missing_variable_or_extra_is_named_and_harms_no_run(
    hook: WebHook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other receivers get the message."""
    option = settings(tmp_path, urls=["env:NOT_THERE", hook.url])
    done = stagewright(*option, "run", write_config(tmp_path), folder=tmp_path)
    assert done.returncode == 0
    assert "warning: notify.urls, number 1: the variable NOT_THERE is not set" in done.stderr
    assert len(hook.received) == 1
    monkeypatch.setitem(sys.modules, "apprise", None)
    channels = find_channels(NotifySettings(command=("true",), urls=(hook.url,)))
    assert [one.name for one in channels.usable] == ["notify.command"]
    assert channels.problems == ("notify.urls needs Apprise: pip install 'stagewright[notify]'",)


def test_notify_test_tells_what_became_of_each(
    hook: WebHook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 0 where all are delivered, 1 where one is not, 2 where there are none."""
    told = Told(tmp_path)
    monkeypatch.setenv("HOOK", hook.url)
    option = settings(tmp_path, command=told.command, urls=["env:HOOK"])
    done = stagewright(*option, "notify", "test", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "notify.command: delivered",
        "notify.urls, number 1 (json): delivered",
    ]
    assert told.facts[0]["test"] is True
    option = settings(
        tmp_path,
        command=[sys.executable, "-c", "raise SystemExit(3)", SECRET],
        urls=[f"foo://{SECRET}", f"json://127.0.0.1:9/{SECRET}", SECRET, hook.url],
    )
    done = stagewright(*option, "notify", "test", folder=tmp_path)
    assert done.returncode == 1
    assert done.stdout == "notify.urls, number 4 (json): delivered\n"
    assert done.stderr.splitlines() == [
        f"stagewright: notify.command: not delivered: {sys.executable}: failed with exit status 3",
        *(
            f"stagewright: notify.urls, number {number} ({scheme}): not delivered: {why}"
            for number, scheme, why in [
                (1, "foo", "not an address that Apprise knows"),
                (2, "json", "the service did not take it"),
                (3, "no address", "not an address that Apprise knows"),
            ]
        ),
    ]
    done = stagewright("notify", "test", folder=tmp_path)
    assert (done.returncode, "nothing to notify" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("on = ['finished']", "notify.on.0 = 'finished'"),
        (f"urls = '{SECRET}'", "notify.urls must be a list"),
        (f"command = ['x', ['{SECRET}']]", "notify.command.1 must be text"),
        ("stalled_minutes = 0", "notify.stalled_minutes = 0"),
        (f"url = ['{SECRET}']", "unknown key notify.url; did you mean notify.urls?"),
        (f"[restart.'http://me:{SECRET}@x:1']\ncommand = ['x']", "without user and password"),
        (f"[restart.'http://x:1']\ncommand = '{SECRET}'", "command must be a list"),
        ("[restart.'http://x:1']\ncommand = []", "command must be a program"),
        ("[restart.'http://x:1']\nready_s = 3", "restart.http://x:1.command must be a program"),
    ],
)
def test_wrong_settings_are_named_without_secrets(tmp_path: Path, text: str, words: str) -> None:
    """One line, exit 2, and nothing is started."""
    path = tmp_path / "settings.toml"
    path.write_text(f"[notify]\n{text}", encoding="utf-8")
    done = stagewright("--config-file", path, "run", write_config(tmp_path), folder=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert words in done.stderr
    assert SECRET not in done.stderr
    assert not (tmp_path / "runs").exists()
