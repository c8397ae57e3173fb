"""``bundle`` as people use it: made of a run with a password, opened on another machine."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from stagewright.statemachine import BackendError

from .bundling import documents, members, unpacked, written
from .command_line import Start, run_json, stagewright, write_config
from .resuming import LOG, cut, painter, ran, small
from .support import png

USER, PASSWORD = "somebody", "open-s3same"
AUTH = f"{USER}:{PASSWORD}"
RESTYLED = """
prompt = "a lighthouse at dusk"
seed = 42
input_image = "{home}/pictures/face.png"

[img2img]
model = "sd_xl_base_1.0.safetensors"
sampler = "Euler a"
denoise = 0.5
steps = 3
cfg_scale = 7.0

[upscale]
upscaler = "R-ESRGAN 4x+"
factor = 2.0

[metadata]
notes = "{home}/notes.txt"
api_token = "{password}"
"""


def elsewhere(folder: Path) -> dict[str, str]:
    """The environment of another person, on another machine."""
    folder.mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith("STAGEWRIGHT")}
    return {**kept, "HOME": str(folder)}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder where no system would put it, and a password in the environment."""
    folder = tmp_path / "people" / "alice"
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures" / "face.png").write_bytes(png(3))
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("STAGEWRIGHT_AUTH", AUTH)
    return folder


@pytest.mark.parametrize("images", [False, True])
def test_the_bundle_of_a_run_on_a_server_with_a_password(
    home: Path, tmp_path: Path, start: Start, *, images: bool
) -> None:
    """It holds neither the password nor a home folder, and on another machine all works on it."""
    server = start("serve-embedded", "--port", "0", "--require-auth", folder=tmp_path)
    assert server.stdout is not None
    url = re.search(r"http://\S+", server.stdout.readline())
    assert url is not None
    config = write_config(home, RESTYLED.format(home=home, password=PASSWORD))
    result = run_json(config, "--server", url[0])
    options = ["--images"] if images else []
    done = stagewright("bundle", "last", *options, folder=home)
    assert done.returncode == 0, done.stderr
    zipped = home / f"{result['run_id']}.bundle.zip"
    forms = [PASSWORD, base64.b64encode(AUTH.encode()).decode(), str(home), "people/alice"]
    for data in [*members(zipped).values(), done.stdout.encode()]:
        assert not any(form.encode() in data for form in forms)
    env = elsewhere(tmp_path / "there")
    folder = unpacked(zipped, tmp_path / "there")
    replayed = stagewright("replay", folder, "--json", folder=tmp_path, env=env)
    told = json.loads(replayed.stdout)
    assert [told[name] for name in ("state", "outcome", "images", "missing")] == [
        result[name] for name in ("state", "outcome", "images", "missing")
    ]
    opened = told["events"][0]
    assert opened["config"]["metadata"] == {"notes": "~/notes.txt", "api_token": "***"}
    assert opened["config"]["input_image"] == "~/pictures/face.png"
    assert opened["backend"]["url"] == url[0]
    assert opened["host"] == "host-1"
    verified = stagewright("verify", folder, folder=tmp_path, env=env)
    assert verified.returncode == (0 if images else 4)
    assert ("this bundle was made without the image files" in verified.stdout) is not images
    page = tmp_path / "report.html"
    reported = stagewright("report", folder, "--output", page, folder=tmp_path, env=env)
    assert reported.returncode == 0, reported.stderr
    assert page.read_text().count("data:image/webp") >= 2
    assert not any(form in page.read_text() for form in forms)
    original = home / "runs" / result["run_id"]
    compared = json.loads(stagewright("diff", folder, original, "--json", folder=tmp_path).stdout)
    assert {one["key"] for one in compared["configuration"]} == {
        "input_image", "metadata.notes", "metadata.api_token",
    }  # fmt: skip
    assert [one["answers"]["images"]["different"] for one in compared["stages"]] == [[], []]


def test_a_failure_with_a_traceback_tells_no_home_folder(home: Path, tmp_path: Path) -> None:
    """Paths in tracebacks, what a server says, the machine's name: the rest of the words stays."""

    def fails(*_: Any) -> None:
        raise BackendError(
            f"500 at http://{AUTH}@{socket.gethostname()}:7860/: no such file",
            detail=f'Traceback:\n  File "{home}/webui/x.py", line 3\n  File "/home/bob/y.py"\n'
            f"Authorization: Basic {base64.b64encode(AUTH.encode()).decode()}",
        )

    folder = ran(home / "runs", small(images=1), painter(fails))
    done = stagewright("bundle", folder, "--output", "b.zip", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    log = members(tmp_path / "b.zip")[LOG].decode()
    assert PASSWORD not in log
    assert str(home) not in log
    assert "/home/" not in log
    assert 'File \\"~/webui/x.py\\", line 3' in log
    assert 'File \\"~/y.py\\"' in log
    assert ":7860/: no such file" in log
    assert json.loads(done.stdout)["manifest"]["log"]["head"] is None


def test_the_words_on_the_terminal(tmp_path: Path) -> None:
    """What is in it, what was left out, and how to look at it."""
    run_id = run_json(write_config(tmp_path))["run_id"]
    lines = stagewright("bundle", "last", folder=tmp_path).stdout.splitlines()
    assert re.fullmatch(rf"{run_id}\.bundle\.zip: \d+ kB", lines[0])
    assert "  2 thumbnails, no image files" in lines
    assert "  replaced: names of machines: 1" in lines
    assert lines[-1] == f"To read it, unpack it and run: stagewright replay {run_id}"


def test_an_unpacked_bundle_says_that_images_are_not_in_it(tmp_path: Path) -> None:
    """``show`` and ``replay`` tell where the small ones are, ``verify`` why files are missing."""
    run_json(write_config(tmp_path))
    stagewright("bundle", "last", "--output", "b.zip", folder=tmp_path)
    folder = unpacked(tmp_path / "b.zip", tmp_path / "there")
    for command in ("show", "replay"):
        told = stagewright(command, folder, folder=tmp_path).stdout
        assert f"images: not in this bundle; thumbnails are in {folder / 'thumbnails'}" in told
    done = stagewright("verify", folder, folder=tmp_path)
    assert done.returncode == 4
    assert "2 files are missing: this bundle was made without the image files" in done.stdout
    next(folder.rglob("*.webp"))


def test_a_bundle_without_thumbnails_shows_no_image(tmp_path: Path) -> None:
    """An altered image is told by exit status 4 all the same."""
    run_json(write_config(tmp_path))
    command = ("bundle", "last", "--no-thumbnails", "--output", "b.zip")
    done = stagewright(*command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "  0 thumbnails, no image files" in done.stdout.splitlines()
    assert not [name for name in members(tmp_path / "b.zip") if name.endswith(".webp")]
    folder = unpacked(tmp_path / "b.zip", tmp_path / "there")
    told = stagewright("replay", folder, folder=tmp_path).stdout
    assert "images: not in this bundle\n" in told
    assert stagewright("report", folder, folder=tmp_path).returncode == 0
    next(tmp_path.glob("runs/*/images/*/*.png")).write_bytes(b"mine")
    assert stagewright(*command, folder=tmp_path).returncode == 4


def test_a_corrupt_log_is_bundled_with_exit_status_4(tmp_path: Path) -> None:
    """The zip is there; the status says that the log is corrupt, as every command's does."""
    folder = ran(tmp_path / "runs", small(), painter())
    data = bytearray((folder / LOG).read_bytes())
    data[len(data) // 2] ^= 4
    (folder / LOG).write_bytes(data)
    done = stagewright("bundle", folder.name, "--output", "b.zip", folder=tmp_path)
    assert done.returncode == 4
    assert "the log is corrupt: " in done.stdout
    assert " bytes of the log from byte " in done.stdout
    new = unpacked(tmp_path / "b.zip", tmp_path / "there")
    assert stagewright("replay", new, folder=tmp_path).returncode == 0


def test_a_torn_log_is_no_corrupt_one(tmp_path: Path) -> None:
    """Exit status 0, and the place of what is not in it."""
    folder = ran(tmp_path / "runs", small(), painter())
    cut(folder, 6, torn=b'{"h":"00')
    done = stagewright("bundle", folder.name, folder=tmp_path)
    assert done.returncode == 0
    assert "left out: 8 bytes of the log from byte " in done.stdout


def test_an_altered_image_is_told_by_exit_status_4(tmp_path: Path) -> None:
    """As ``verify`` does; the bundle is made all the same."""
    folder = ran(tmp_path / "runs", small(), painter())
    next((folder / "images").rglob("*.png")).write_bytes(b"somebody's work")
    done = stagewright("bundle", folder.name, folder=tmp_path)
    assert done.returncode == 4
    assert "it has been altered" in done.stdout
    assert list(tmp_path.glob("*.bundle.zip"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "there is no run 'nothing'"),
        (["last", "--output", "."], "is a directory"),
        (["last", "--output", "-"], "standard output is not supported"),
        (["last", "--output", "no/such/folder/b.zip"], "No such file or directory"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    """No run, no such folder, a folder in its place; nothing is left behind."""
    written(tmp_path / "runs" / "run", documents())
    done = stagewright("bundle", *arguments, folder=tmp_path)
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["runs"]


def test_a_password_of_one_letter_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands in every word; without it in the environment the bundle is made."""
    written(tmp_path / "runs" / "run", documents())
    monkeypatch.setenv("STAGEWRIGHT_AUTH", "me:e")
    done = stagewright("bundle", "last", folder=tmp_path)
    assert done.returncode == 2
    assert "unset STAGEWRIGHT_AUTH and bundle again" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    monkeypatch.delenv("STAGEWRIGHT_AUTH")
    assert stagewright("bundle", "last", folder=tmp_path).returncode == 0
