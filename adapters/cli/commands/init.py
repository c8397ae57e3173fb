"""``init``: writes a commented configuration, with names that the server has."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import click

from ....events.codec import encode_line
from ....statemachine.config.schema import RunConfig
from ....statemachine.errors import ConfigurationError, PreflightError
from ..configuration import find_servers
from ..options import insecure_option, servers_option
from ..output import count, print_line
from ..statuses import EXIT_USAGE, print_error

_SHOWN = 12
"""Further names that a comment lists."""
_UNUSABLE = frozenset(["None", "Automatic"])
_PREFERRED: Mapping[str, Sequence[str]] = {
    "checkpoints": ("sd_xl_base_1.0.safetensors",),
    "samplers": ("Euler a", "DPM++ 2M", "Euler"),
    "schedulers": ("Karras", "karras"),
    "latent upscale modes": ("Latent",),
    "upscalers": ("R-ESRGAN 4x+", "ESRGAN_4x", "Lanczos"),
    "detectors": ("face_yolov8n.pt",),
}
"""By list, names to use if the server has them; the first one where it has no such list."""
_TEMPLATE = """\
# A configuration of stagewright{source}.
# `stagewright plan {file}` checks it, `stagewright run {file}` runs it, and
# `stagewright schema` prints every key, with its type and limits.
# A stage runs if its table is here: remove the "# " in front of its lines to switch it on.

prompt = "portrait of an astronaut, studio light"
negative_prompt = ""
seed = -1                # -1: drawn when the run starts, and recorded
images = 4

[txt2img]
{model}
{sampler}
{scheduler}
steps = 25
cfg_scale = 7.0
width = 512              # a multiple of 8; 1024 for SDXL models
height = 512

# [txt2img.hires]
{hires}
# scale = 1.5
# denoise = 0.35

# [img2img]              # takes model, sampler, scheduler and cfg_scale from txt2img
# steps = 20
# denoise = 0.3

# [upscale]
{upscaler}
# factor = 2.0

# [[adetailer.passes]]   # repaints what the detector finds; further passes may follow
{detector}
# denoise = 0.4
"""


@click.command("init")
@click.argument("file", type=click.Path(path_type=Path), default=Path("run.toml"))
@servers_option("WebUI server whose names are used.  [default: the embedded backend's]")
@click.option(
    "--examples",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Copy the examples to a new folder instead.",
)
@insecure_option
def init_command(
    file: Path,
    servers: tuple[str, ...],
    examples: Path | None,
    insecure: bool,
) -> int | None:
    """Write a commented configuration to start from.

    FILE must not exist; the default is run.toml. The names of models, samplers and so on are those
    that the server lists.
    """
    if examples is not None:
        return _copy_examples(examples)
    if file.suffix.lower() != ".toml":
        raise click.UsageError(f"{file}: the configuration is written as TOML; name a .toml file")
    if file.exists():
        return print_error(f"{file}: it is there already and is kept; name another", EXIT_USAGE)
    url, names, notes = _names_of_server(servers, insecure=insecure)
    text = make_configuration(file.name, url, names)
    try:
        with open(file, "x", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        return print_error(f"{file}: cannot be written: {error.strerror}", EXIT_USAGE)
    for note in notes:
        print_line(f"note: {note}")
    print_line(f"{file} was written; `stagewright run {file}` runs it")
    return None


def make_configuration(file_name: str, url: str | None, names: Mapping[str, Sequence[str]]) -> str:
    """The text of a configuration; ``names`` are those of the server, by list."""
    text = _TEMPLATE.format(
        file=file_name,
        source=f", with names of {url}" if url else "",
        model=_setting("model", "checkpoints", names),
        sampler=_setting("sampler", "samplers", names),
        scheduler=_setting("scheduler", "schedulers", names),
        hires=_setting("upscaler", "latent upscale modes", names, mark="# "),
        upscaler=_setting("upscaler", "upscalers", names, mark="# "),
        detector=_setting("model", "detectors", names, mark="# "),
    )
    return text if url is None else f"{text}\n[server]\nurl = {_quoted(url)}\n"


def _setting(key: str, kind: str, names: Mapping[str, Sequence[str]], mark: str = "") -> str:
    """A line with a name of the server, and a comment with its other names."""
    known = [name for name in names.get(kind, ()) if name not in _UNUSABLE]
    preferred = _PREFERRED[kind]
    usable = [name for name in preferred if name in known] or known or preferred
    line = f"{mark}{key} = {_quoted(usable[0])}"
    others = [_quoted(name) for name in known if name != usable[0]]
    if not others:
        return line
    more = f", and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    return f"{line}\n# other {kind}: {', '.join(others[:_SHOWN])}{more}"


def _quoted(text: str) -> str:
    """A text as TOML writes it, in one line: JSON's escapes, and that of DEL."""
    return encode_line(text).decode().replace("\x7f", "\\u007f")


def _names_of_server(
    servers: tuple[str, ...], *, insecure: bool
) -> tuple[str | None, Mapping[str, Sequence[str]], Sequence[str]]:
    """The address, the names and notes on lists that cannot be read.

    Raises ConfigurationError, and PreflightError where the server cannot be reached.
    """
    found = find_servers(servers, RunConfig(), insecure=insecure)
    if not found:
        return None, {}, ()
    if len(found) > 1:
        raise click.UsageError("init reads the names of one server; give --server once")
    ((kind, choice),) = found
    report = kind.inspect(choice, None)
    if report.problems and not any(report.names.values()):
        raise PreflightError(report.problems[-1])
    return choice.url, report.names, report.notes


def _copy_examples(target: Path) -> int | None:
    found = find_spec("stagewright.examples")
    if found is None or not found.submodule_search_locations:
        raise ConfigurationError("the examples are not installed; install stagewright again")
    source = Path(found.submodule_search_locations[0])
    try:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    except FileExistsError:
        return print_error(f"{target}: it is there already; name a new folder", EXIT_USAGE)
    print_line(f"{count(len(list(target.rglob('*.toml'))), 'example')} copied to {target}")
    return None
