"""Settings of the user: files, profiles, extends, the environment, and common options."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from stagewright.adapters.cli.main import stagewright as command_line
from stagewright.adapters.webui_server import EmbeddedServer
from stagewright.events import iterate

from .command_line import SMALL, stagewright, write_config

Done = subprocess.CompletedProcess[str]
Command = Callable[..., Done]
SECRET = "hush-7f3a9c"
CLOSED = "http://127.0.0.1:9"
"""Nothing listens there."""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A working folder with a configuration."""
    folder = tmp_path / "project" / "work"
    folder.mkdir(parents=True)
    write_config(folder, SMALL.replace("images = 2", "images = 1"))
    return folder


@pytest.fixture
def command(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command in the working folder of a user with these settings and variables."""
    for name in ("SERVER", "RUNS", "CONFIG_FILE"):
        monkeypatch.delenv(f"STAGEWRIGHT_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def run(*arguments: str | Path, settings: str = "", **variables: str) -> Done:
        home = tmp_path / "config" / "stagewright"
        home.mkdir(parents=True, exist_ok=True)
        (home / "config.toml").write_text(settings, encoding="utf-8")
        with monkeypatch.context() as patched:
            for name, value in variables.items():
                patched.setenv(name, value)
            return stagewright(*arguments, folder=work)

    return run


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server."""
    with EmbeddedServer(["base.safetensors"]) as running:
        yield running.url


def planned(done: Done) -> dict[str, Any]:
    """The settings of the first stage of a plan."""
    assert done.returncode == 0, done.stderr
    config: dict[str, Any] = json.loads(done.stdout)["stages"][0]["config"]
    return config


def test_the_folder_of_runs_comes_from_the_first_source_that_names_one(
    command: Command, work: Path, tmp_path: Path
) -> None:
    """Command line, environment, the folder's file, the user's file, ./runs."""
    user, variable = f'runs = "{tmp_path}/user"', {"STAGEWRIGHT_RUNS": "variable"}
    (work.parent / "stagewright.toml").write_text('runs = "folder"', encoding="utf-8")
    (work / "option").mkdir()

    def folder(*arguments: str, settings: str = "", **variables: str) -> Path:
        done = command(*arguments, settings=settings, **variables)
        return work / done.stdout.removeprefix("no run in ").rstrip()

    assert folder("list", "--runs", "option", settings=user, **variable) == work / "option"
    assert folder("--runs", "option", "list", **variable) == work / "option"
    assert folder("list", settings=user, **variable) == work / "variable"
    assert folder("list", settings=user) == work.parent / "folder"
    (work.parent / "stagewright.toml").unlink()
    assert folder("list", settings=user) == tmp_path / "user"
    assert folder("list", STAGEWRIGHT_RUNS="") == work / "runs"


@pytest.mark.parametrize(
    ("arguments", "settings", "folder", "configured", "variables"),
    [
        (["--server", "SERVER"], CLOSED, CLOSED, CLOSED, CLOSED),
        ([], CLOSED, CLOSED, CLOSED, "SERVER"),
        ([], CLOSED, CLOSED, "SERVER", ""),
        ([], CLOSED, "SERVER", "", ""),
        ([], "SERVER", "", "", ""),
    ],
    ids=["option", "variable", "configuration", "file of the folder", "file of the user"],
)
def test_the_server_comes_from_the_first_source_that_names_one(
    command: Command, work: Path, server: str, arguments: list[str],
    settings: str, folder: str, configured: str, variables: str,
) -> None:  # fmt: skip
    """The others name a server that does not answer."""

    def named(text: str) -> str:
        return text.replace("SERVER", server)

    if folder:
        text = f'server = "{named(folder)}"'
        (work / "stagewright.toml").write_text(text, encoding="utf-8")
    if configured:
        arguments = [*arguments, "--set", f"server.url={named(configured)}"]
    done = command(
        "run", "small.toml", *map(named, arguments), settings=f'server = "{named(settings)}"',
        **({"STAGEWRIGHT_SERVER": named(variables)} if variables else {}),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    opened: Any = next(iterate(next(work.glob("runs/*/events.jsonl")).parent))
    assert opened.backend.url == server


@pytest.mark.parametrize("source", ["user", "variable", "folder"])
def test_credentials_go_to_servers_that_the_user_has_named(
    command: Command, work: Path, source: str
) -> None:
    """A file that lies in a folder may have come with somebody else's work."""
    with EmbeddedServer(auth=("me", "secret")) as running:
        (work / "stagewright.toml").write_text(
            f'server = "{running.url}"' if source == "folder" else "", encoding="utf-8"
        )
        variables = {"STAGEWRIGHT_SERVER": running.url} if source == "variable" else {}
        settings = f'server = "{running.url}"' if source == "user" else ""
        done = command("doctor", settings=settings, STAGEWRIGHT_AUTH="me:secret", **variables)
    assert done.returncode == (2 if source == "folder" else 0), done.stderr
    assert ("is not sent" in done.stderr) is (source == "folder")


@pytest.mark.parametrize(
    ("text", "ignored"),
    [
        ("[notify]\ncommand = ['rm']", "notify"),
        ("[restart.'http://x:1']\ncommand = ['rm']", "restart"),
        ("[servers.'http://x:1'.headers]\nX = 'y'", "servers"),
        ("prompt = 'x'\n[run]\nlearning = false", "prompt, run"),
    ],
)
def test_the_file_of_a_folder_may_hold_little(
    command: Command, work: Path, text: str, ignored: str
) -> None:
    """Anything else is ignored, and one line reports it; the rest of the file counts."""
    (work / "stagewright.toml").write_text(f'runs = "mine"\n{text}', encoding="utf-8")
    done = command("list")
    assert (done.returncode, done.stdout) == (0, f"no run in {work / 'mine'}\n")
    assert [line for line in done.stderr.splitlines() if f"ignored: {ignored}" in line]
    assert done.stderr.count("stagewright: ") == 1
    assert command("-q", "list").stderr == ""


@pytest.mark.posix
def test_the_file_of_another_user_is_ignored(command: Command, work: Path) -> None:
    """It could send a run to a server of that user."""
    path = work / "stagewright.toml"
    path.write_text('runs = "theirs"', encoding="utf-8")
    if sys.platform == "win32" or os.getuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(path, 12345, 12345)
    done = command("list")
    assert (done.returncode, done.stdout) == (0, "no run in runs\n")
    assert "another user owns it" in done.stderr


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("serwer = 'x'", ["unknown key serwer", "did you mean server"]),
        ("runs = 3", ["runs = 3 must be text, not a number"]),
        ("runs = ", ["not valid TOML"]),
        ("runs = 'a'\nruns = 'b'", ["runs is set twice (again in line 2)"]),
        ("[profiles]\nx = 3", ["profiles.x = 3 must be a table"]),
        (f"server = 'http://me:{SECRET}@x'", ["server holds a user or a password"]),
        (f"server = ['http://me:{SECRET}@x']", ["server must be text, not a list"]),
        (f"servers.'http://x'.headers = '{SECRET}'", ["headers must be a table, not text"]),
        (f"servers.'http://x'.headers.X = ['{SECRET}']", ["headers.X must be text, not a list"]),
        (f"servers.'http://x'.token = '{SECRET}'", ["unknown key servers.http://x.token"]),
    ],
)
def test_a_wrong_file_of_settings_is_named(
    command: Command, settings: str, words: list[str]
) -> None:
    """One line, exit 2."""
    done = command("plan", "small.toml", settings=settings)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert [word for word in ["config.toml", *words] if word not in done.stderr] == []
    assert SECRET not in done.stderr


def test_another_file_of_settings_can_be_named(command: Command, work: Path) -> None:
    """By an option, before and after the command, or by a variable; it must be there."""
    for name in ("a", "b", "c"):
        (work / f"{name}.toml").write_text(f'runs = "{name}"', encoding="utf-8")
    variable = {"STAGEWRIGHT_CONFIG_FILE": "c.toml"}
    shown = [
        command("--config-file", "a.toml", "list", settings="runs = 'x'"),
        command("list", "--config-file", "b.toml", **variable),
        command("list", settings="runs = 'x'", **variable),
    ]
    assert [done.stdout for done in shown] == [f"no run in {name}\n" for name in ("a", "b", "c")]
    done = command("list", STAGEWRIGHT_CONFIG_FILE="missing.toml")
    assert (done.returncode, "missing.toml: cannot be read" in done.stderr) == (2, True)


PROFILES = """
[profiles.fast]
negative_prompt = "blurry"
[profiles.fast.txt2img]
steps = 2
scheduler = "Karras"
"""


def test_a_profile_lies_below_the_configuration(command: Command, work: Path) -> None:
    """Its values are used where the configuration has none; that of the folder comes first."""
    arguments = ("plan", "small.toml", "--json", "--profile", "fast")
    config = planned(command(*arguments, settings=PROFILES))
    assert (config["steps"], config["scheduler"]) == (4, "Karras")
    assert config["negative_prompt"] == "blurry"
    (work / "stagewright.toml").write_text("[profiles.fast.txt2img]\nclip_skip = 2", "utf-8")
    again = planned(command(*arguments, settings=PROFILES))
    assert (again["clip_skip"], again.get("scheduler")) == (2, None)
    done = command("run", "small.toml", "--profile", "fsat", settings=PROFILES)
    assert (done.returncode, "no profile 'fsat'" in done.stderr) == (2, True)
    assert "fast" in done.stderr


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")


def test_a_configuration_extends_a_file_beside_it(command: Command, work: Path) -> None:
    """Tables are merged, other values replaced, over several files and formats."""
    write(work, "bases/top.yaml", "prompt: top\nnegative_prompt: low\nimages: 3\n")
    write(work, "base.json", json.dumps({
        "extends": "bases/top.yaml", "prompt": "base", "seed": 7,
        "txt2img": {"model": "m", "sampler": "Euler", "steps": 9, "cfg_scale": 7,
                    "width": 64, "height": 64, "styles": ["a", "b"]},
    }))  # fmt: skip
    write(work, "c.toml", 'extends = "base.json"\n[txt2img]\nsteps = 2\nstyles = ["c"]\n')
    profile = "[profiles.p]\nnegative_prompt = 'profile'\n[profiles.p.txt2img]\nclip_skip = 2"
    done = command("plan", "c.toml", "--json", "--profile", "p", settings=profile)
    config = planned(done)
    assert (config["steps"], config["sampler"], config["styles"]) == (2, "Euler", ["c"])
    assert (config["prompt"], config["negative_prompt"]) == ("base", "low")
    assert config["clip_skip"] == 2
    assert json.loads(done.stdout)["total_images"] == 3
    assert command("run", "c.toml", "--set", "images=1").returncode == 0
    opened: Any = next(iterate(next(work.glob("runs/*/events.jsonl")).parent))
    assert "extends" not in opened.config
    assert opened.config["txt2img"]["sampler"] == "Euler"


def test_an_error_names_the_file_or_profile_that_it_is_in(command: Command, work: Path) -> None:
    """Whichever layer holds the value: all of them in one go; a missing key is of the first."""
    write(work, "c.toml", 'extends = "base.yaml"\n[txt2img]\nheight = 1')
    write(work, "base.yaml", "extends: top.json\nseed: -5\ntxt2img: {width: x}")
    write(work, "top.json", '{"images": 0, "foo": 1, "steps": 0, "prompt": "x"}')
    profile = "[profiles.p]\nfoo = 2\n[profiles.p.txt2img]\nmodle = 'm'\ncfg_scale = 'x'"
    typed = ("--set", "name=[]", "--set", "rnu.learning=1")
    done = command("plan", "c.toml", "--profile", "p", *typed, settings=profile)
    assert done.returncode == 2
    lines = done.stderr.replace("stagewright: ", "").replace("unknown key ", "").splitlines()
    sources = {line.split(" = ")[0] for line in lines}
    assert {re.sub(r"^.*config\.toml: (?=profiles)", "", one) for one in sources} == {
        "c.toml: txt2img.height", "base.yaml: seed", "base.yaml: txt2img.width",
        "top.json: images", "top.json: foo", "top.json: steps", "--set: name",
        "--set: rnu; did you mean run?",
        "profiles.p: txt2img.modle; did you mean txt2img.model?", "profiles.p: txt2img.cfg_scale",
        "c.toml: txt2img.model is missing; an enabled txt2img needs it",
        "c.toml: txt2img.sampler is missing; an enabled txt2img needs it",
    }  # fmt: skip


ROOT: dict[str, Any] = {
    "prompt": "x",
    "txt2img": {"model": "m", "sampler": "Euler", "cfg_scale": 7, "width": 64, "height": 64},
}


@pytest.mark.parametrize(
    ("lower", "upper", "steps"),
    [
        ({"txt2img": {"steps": 9}}, {"steps": 3}, 3),
        ({"steps": 9}, {"txt2img": {"steps": 3}}, 3),
        ({"steps": 9}, {"steps": 3}, 3),
        ({"txt2img": {"steps": 9}}, {"txt2img_enabled": True, "steps": 3}, 3),
        ({"steps": 9, "txt2img": {"hires": {"resize_x": 8, "resize_y": 8, "denoise": 0.5}}},
         {"hires_upscale_factor": 2.0}, 9),
    ],
)  # fmt: skip
def test_a_flat_key_and_a_nested_key_of_two_files_are_no_conflict(
    command: Command, work: Path, lower: dict[str, Any], upper: dict[str, Any], steps: int
) -> None:
    """The upper file counts, in whichever form it sets the value."""
    write(work, "root.json", json.dumps(ROOT))
    write(work, "lower.json", json.dumps({"extends": "root.json", **lower}))
    write(work, "upper.json", json.dumps({"extends": "lower.json", **upper}))
    done = command("plan", "upper.json", "--json")
    assert planned(done)["steps"] == steps
    assert json.loads(done.stdout)["conflicts"] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('extends = "missing.toml"', "missing.toml: cannot be read"),
        ('extends = "c.toml"', "it extends itself"),
        ('extends = "d.toml"', "it extends itself"),
        ("extends = 3", "must be the path of a file"),
        ("extends = []", "must be the path of a file"),
    ],
)
def test_a_wrong_extends_is_named(command: Command, work: Path, text: str, words: str) -> None:
    """Exit 2 with one line."""
    write(work, "c.toml", text)
    write(work, "d.toml", 'extends = "c.toml"')
    done = command("plan", "c.toml")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert words in done.stderr


@pytest.mark.parametrize("before", [True, False])
def test_options_are_accepted_before_and_after_the_command(
    command: Command, work: Path, server: str, *, before: bool
) -> None:
    """The folder of runs, the server, more and less output."""

    def placed(options: list[str], *arguments: str) -> list[str]:
        return [*options, *arguments] if before else [*arguments, *options]

    loud = command(*placed(["-v", "--runs", "there", "--server", server], "run", "small.toml"))
    assert loud.returncode == 0, loud.stderr
    assert "stagewright.runner: " in loud.stderr
    assert len(list((work / "there").glob("*/events.jsonl"))) == 1
    quiet = command(*placed(["-q", "--runs", "there"], "run", "small.toml"))
    assert (quiet.stderr, "finished" in quiet.stdout) == ("", False)
    assert command(*placed(["-V"], "run")).stdout == command("--version").stdout
    assert command("--version").stdout.startswith("stagewright, version ")
    assert command(*placed(["--runs", "missing"], "list")).returncode == 2


def test_every_command_takes_the_common_options() -> None:
    """Before and after its name, whether it uses them or not."""
    options = ["-v", "-q", "--runs", "there", "--server", CLOSED, "-h"]
    for name in command_line.list_commands(click.Context(command_line)):
        for arguments in ([*options[:-1], name, "-h"], [name, *options]):
            shown = CliRunner().invoke(command_line, arguments).output
            assert shown.startswith("Usage: "), (arguments, shown)
            assert [one for one in ("-v,", "-q,", "-V,", "--runs") if one not in shown] == []


@pytest.mark.parametrize(
    ("named", "sent"),
    [("SERVER", True), ("SERVER/", True), ("http://127.0.0.1:9", False), ("https://SERVER", False)],
)
def test_headers_go_to_their_own_origin_and_nowhere_else(
    command: Command, work: Path, named: str, *, sent: bool
) -> None:
    """The server wants a password, which only the header has; no file of the run holds it."""
    value = f"Basic {base64.b64encode(SECRET.encode() + b':x').decode()}"
    with EmbeddedServer(["base.safetensors"], auth=(SECRET, "x")) as running:
        host = running.url.removeprefix("http://")
        origin = named.replace("https://SERVER", f"https://{host}").replace("SERVER", running.url)
        settings = f'[servers."{origin}".headers]\nAuthorization = "env:HEADER"'
        done = command(
            "run", "small.toml", "--server", running.url, settings=settings, HEADER=value
        )
    assert done.returncode == (0 if sent else 2), done.stderr
    assert value not in done.stdout + done.stderr
    for path in (work / "runs").rglob("*"):
        assert path.is_dir() or value.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ('X = "env:NOT_THERE"', "NOT_THERE is not set"),
        (f'X = "{SECRET}\\nY: 1"', "in one line"),
        (f'"X Y" = "{SECRET}"', "in one line"),
    ],
)
def test_a_wrong_header_is_named_without_its_value(
    command: Command, header: str, words: str
) -> None:
    """Exit 2 with one line; nothing is sent."""
    settings = f'[servers."{CLOSED}".headers]\n{header}'
    done = command("doctor", "--server", CLOSED, settings=settings)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert words in done.stderr
    assert SECRET not in done.stderr
