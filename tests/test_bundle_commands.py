"""``bundle`` on the command line: made of a run with a password, opened on another machine."""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path

import pytest

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
    """It holds neither the password nor a home folder, and commands work on it elsewhere."""
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
    found = json.loads(replayed.stdout)
    assert [found[name] for name in ("state", "outcome", "images", "missing")] == [
        result[name] for name in ("state", "outcome", "images", "missing")
    ]
    opened = found["events"][0]
    assert opened["config"]["metadata"] == {"notes": "~/notes.txt", "api_token": "***"}
    assert opened["config"]["input_image"] == "~/pictures/face.png"
    assert opened["backend"]["url"] == url[0]
    assert opened["host"] == "host-1"
    verified = stagewright("verify", folder, folder=tmp_path, env=env)
    assert verified.returncode == (0 if images else 4)
    assert ("this bundle was made without the image files" in verified.stdout) is not images
    assert ("the image files are copied unchanged" in done.stdout) is images
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


def test_what_the_terminal_shows_of_a_bundle_without_images(tmp_path: Path) -> None:
    """Its contents, what was replaced, how to read it; ``show``, ``replay``, ``verify`` follow."""
    run_id = run_json(write_config(tmp_path))["run_id"]
    lines = stagewright("bundle", "last", folder=tmp_path).stdout.splitlines()
    assert re.fullmatch(rf"{run_id}\.bundle\.zip: [\d.]+ KB", lines[0])
    assert "  2 thumbnails, no image files" in lines
    assert "  replaced: machine names: 1" in lines
    assert lines[-1].endswith(f"stagewright replay {run_id}")
    folder = unpacked(tmp_path / f"{run_id}.bundle.zip", tmp_path / "there")
    for command in ("show", "replay"):
        shown = stagewright(command, folder, folder=tmp_path).stdout
        assert f"images: not in this bundle; thumbnails are in {folder / 'thumbnails'}" in shown
    done = stagewright("verify", folder, folder=tmp_path)
    assert done.returncode == 4
    assert "2 files are missing: this bundle was made without the image files" in done.stdout


def test_a_bundle_without_thumbnails_shows_no_image(tmp_path: Path) -> None:
    """An altered image makes exit status 4 all the same."""
    run_json(write_config(tmp_path))
    next(tmp_path.glob("runs/*/images/*/*.png")).write_bytes(b"mine")
    command = ("bundle", "last", "--no-thumbnails", "--output", "b.zip")
    done = stagewright(*command, folder=tmp_path)
    assert done.returncode == 4, done.stderr
    assert "altered" in done.stdout
    folder = unpacked(tmp_path / "b.zip", tmp_path / "there")
    assert not list(folder.rglob("*.webp"))
    assert "images: not in this bundle\n" in stagewright("replay", folder, folder=tmp_path).stdout
    assert stagewright("report", folder, folder=tmp_path).returncode == 0


@pytest.mark.parametrize("damage", ["torn", "corrupt"])
def test_a_damaged_log_is_bundled(tmp_path: Path, damage: str) -> None:
    """Exit status 4 says that the log is corrupt; a torn tail is not a fault."""
    folder = ran(tmp_path / "runs", small(), painter())
    if damage == "torn":
        cut(folder, 6, torn=b'{"h":"00')
    else:
        data = bytearray((folder / LOG).read_bytes())
        data[len(data) // 2] ^= 4
        (folder / LOG).write_bytes(data)
    done = stagewright("bundle", folder.name, "--output", "b.zip", folder=tmp_path)
    assert done.returncode == (4 if damage == "corrupt" else 0)
    assert ("the log is corrupt: " in done.stdout) is (damage == "corrupt")
    assert re.search(r"left out: \d+ bytes of the log from byte \d+ on", done.stdout)
    new = unpacked(tmp_path / "b.zip", tmp_path / "there")
    assert stagewright("replay", new, folder=tmp_path).returncode in (0, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "no run 'nothing'"),
        (["last", "--output", "."], "is a directory"),
        (["last", "--output", "-"], "standard output is not supported"),
        (["last", "--output", "no/such/folder/b.zip"], "No such file or directory"),
    ],
)
def test_an_error_is_one_clear_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    """No run, no such folder, a folder in its place; nothing is left behind."""
    written(tmp_path / "runs" / "run", documents())
    done = stagewright("bundle", *arguments, folder=tmp_path)
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["runs"]
