"""What bounds the time and the memory that a client can take from ``serve-embedded``."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .command_line import Start
from .serving import SMALL, Client, InBackground, url_of


@pytest.fixture
def client(start: Start, tmp_path: Path) -> Iterator[Client]:
    """A client of a server in a process of its own, which is killed at the end of the test."""
    found = Client(url_of(start("serve-embedded", "--port", "0", folder=tmp_path)))
    yield found
    found.close()


@pytest.mark.parametrize("text", ["a" * 1_000_000, "a," + " " * 1_000_000 + "!"])
def test_a_long_text_in_a_png_is_answered_and_blocks_no_other_request(
    client: Client, text: str
) -> None:
    """A ``parameters`` text of a megabyte without any setting is read in linear time."""
    parameters, file = PngInfo(), io.BytesIO()
    parameters.add_text("parameters", text)
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=parameters)
    picture = base64.b64encode(file.getvalue()).decode()
    reading = InBackground(client, "png-info", {"image": picture})
    assert client.get("progress")["progress"] == 0
    assert reading.answer()["info"] == text


def test_a_long_name_of_a_model_is_answered_and_blocks_no_other_request(client: Client) -> None:
    """A refiner's name of a megabyte of opening brackets is looked up in linear time."""
    asking = InBackground(client, "txt2img", SMALL | {"refiner_checkpoint": " [" * 500_000}, 500)
    assert client.get("progress")["state"]["sampling_step"] == 0
    assert "Could not find checkpoint" in asking.answer()["errors"]
