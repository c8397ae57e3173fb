"""Every reuse that would be wrong is refused: real runs, one after the other, on a server."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from stagewright.adapters import open_controller
from stagewright.events import CallReused, RunState, replay

from .resuming import ALTERED, image_file, only, small
from .webui_faults import alters_info
from .webui_server import ScriptedWebUI

UPSCALER = "R-ESRGAN 4x+"


@pytest.fixture
def server() -> Iterator[ScriptedWebUI]:
    """A server that has loaded each of its models before, and so knows their hashes."""
    with ScriptedWebUI() as webui:
        webui.painter.hashed.update(webui.painter.names.models)
        yield webui


def config(*stages: str, reuse: str = "all", prompt: str = "a lighthouse", **txt2img: Any) -> Any:
    """A configuration of one image."""
    run = {"reuse": reuse, "durability": "process"}
    document = small("txt2img", *stages, images=1, prompt=prompt, run=run)
    document["txt2img"] |= txt2img
    if "upscale" in document:
        document["upscale"]["upscaler"] = UPSCALER
    return document


def run(server: ScriptedWebUI, runs: Path, document: Any) -> Path:
    """The folder of a run that completes."""
    handle = open_controller(runs, server.url).start(document)
    assert handle.wait(30).state is RunState.COMPLETED
    return handle.folder


def reused(folder: Path) -> list[str]:
    """The stages whose image was used again."""
    return [one.stage_id for one in only(replay(folder).events, CallReused)]


def repeated(server: ScriptedWebUI, folder: Path) -> list[str]:
    """The stages whose image a rerun uses again, of those that its parent made."""
    controller = open_controller(folder.parent, server.url)
    handle = controller.start_rerun(folder.name, overrides=["run.reuse=group"])
    assert handle.wait(30).state is RunState.COMPLETED
    return reused(handle.folder)


def swap(name: str) -> Callable[[ScriptedWebUI], None]:
    """Another file under the same name."""
    return lambda server: server.painter.contents.update({name: "another"})


def forget(server: ScriptedWebUI) -> None:
    """The model was replaced while the server was down: its hash is not known any more."""
    server.painter.hashed.clear()


def update(server: ScriptedWebUI) -> None:
    """A release that has the same features as the one before."""
    server.painter.version = "v1.10.2"


def change_options(server: ScriptedWebUI) -> None:
    """Somebody has changed an option that changes pixels."""
    server.painter.set_options({"eta_noise_seed_delta": 31337})


@pytest.mark.parametrize(
    ("document", "change", "near"),
    [
        (config(model="base"), swap("base"), []),
        (config(prompt="a <lora:ink:1>"), swap("ink"), []),
        (config(model="base"), forget, []),
        (config(model="base"), update, []),
        # A rerun sends the options that its parent sent.
        (config(model="base"), change_options, ["00-txt2img"]),
    ],
    ids=["model", "LoRA", "hash is not reported", "version", "options"],
)
def test_an_image_made_with_something_else_is_not_used(
    document: Any, change: Callable[[ScriptedWebUI], None], near: list[str],
    server: ScriptedWebUI, tmp_path: Path,
) -> None:  # fmt: skip
    """By no run, and by a rerun only where its request carries what was changed."""
    first = run(server, tmp_path, document)
    assert reused(run(server, tmp_path, document)) == ["00-txt2img"]
    change(server)
    assert reused(run(server, tmp_path, document)) == []
    change(server)  # the server has learned the hash again by that run
    assert repeated(server, first) == near


@pytest.mark.parametrize(
    ("document", "used"),
    [
        (config(vae="vae.safetensors"), []),
        (config("upscale"), ["00-txt2img"]),
    ],
    ids=["VAE", "upscaler"],
)
def test_a_file_without_a_reported_hash_is_trusted_by_a_rerun_alone(
    document: Any, used: list[str], server: ScriptedWebUI, tmp_path: Path
) -> None:
    """Whether it was swapped cannot be known, so no other run uses what it made."""
    first = run(server, tmp_path, document)
    assert reused(run(server, tmp_path, document)) == used
    stages = [stage.stage_id for stage in replay(first).stages]
    assert repeated(server, first) == stages


def test_another_product_at_the_same_address_makes_its_own_images(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """Also for a rerun."""
    document = config(model="base")
    first = run(server, tmp_path, document)
    with ScriptedWebUI(fork="forge") as other:
        other.painter.hashed.update(other.painter.names.models)
        assert reused(run(other, tmp_path, document)) == []
        assert repeated(other, first) == []


def test_a_rerun_that_trusted_its_parent_vouches_for_no_file(
    server: ScriptedWebUI, tmp_path: Path
) -> None:
    """It records the present hash of the model, which another file had when the image was made."""
    server.painter.hashed.clear()
    server.on(0, alters_info(lambda info: info.update(sd_model_hash=None)))
    first = run(server, tmp_path, config(model="base"))
    swap("base")(server)
    server.painter.hashed.add("base.safetensors")
    assert repeated(server, first) == ["00-txt2img"]
    assert reused(run(server, tmp_path, config(model="base"))) == []


@pytest.mark.parametrize("reuse", ["none", "group"])
def test_a_run_uses_images_of_other_runs_only_where_it_may(
    reuse: str, server: ScriptedWebUI, tmp_path: Path
) -> None:
    """The default is the group; a run of its own has none."""
    run(server, tmp_path, config(model="base"))
    assert reused(run(server, tmp_path, config(model="base", reuse=reuse))) == []


@pytest.mark.parametrize("harm", [Path.unlink, lambda file: file.write_bytes(ALTERED)])
def test_an_image_that_is_gone_or_altered_is_made(
    harm: Callable[[Path], object], server: ScriptedWebUI, tmp_path: Path
) -> None:
    """The copy is compared with the record."""
    document = config(model="base")
    first = run(server, tmp_path, document)
    harm(image_file(first, "00-txt2img", 0))
    assert reused(run(server, tmp_path, document)) == []


def test_a_forged_row_of_the_index_is_not_believed(server: ScriptedWebUI, tmp_path: Path) -> None:
    """Every request points to a run that made another image: its log says so."""
    run(server, tmp_path, config(model="base", prompt="a harbour"))
    run(server, tmp_path, config(model="base", prompt="a storm"))
    with closing(sqlite3.connect(tmp_path / "catalogue.sqlite")) as database, database:
        digests = [one for (one,) in database.execute("SELECT sha256 FROM requests")]
        logs = [one for (one,) in database.execute("SELECT number FROM indexed_logs")]
        assert digests
        database.executemany(
            "INSERT OR IGNORE INTO requests VALUES (?, ?)",
            [(digest, log) for digest in digests for log in logs],
        )
    again = run(server, tmp_path, config(model="base", prompt="a harbour", reuse="all"))
    (image,) = replay(again).images
    (first, *_) = sorted(tmp_path.glob("*/events.jsonl"))
    assert replay(first.parent).images[0].source_sha256 == image.source_sha256
    assert [one.origin.run_id for one in only(replay(again).events, CallReused)] == [
        first.parent.name
    ]
