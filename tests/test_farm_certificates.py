"""TLS between the processes of a farm: the certificates that are made, and those refused."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from stagewright.adapters.backends.farm.certificates import _certificate, make_certificates
from stagewright.adapters.cli.main import stagewright as stagewright_group

from .command_line import ROOT, stagewright
from .farming import Farm, open_farm, write_work


def settings(folder: Path) -> dict[str, str]:
    """The environment of a process whose Dask has the settings of a folder."""
    return {**os.environ, "DASK_CONFIG": str(folder)}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificates that the command made."""
    folder = tmp_path_factory.mktemp("tls") / "certificates"
    done = stagewright("farm", "certificates", folder, folder=folder.parent)
    assert done.returncode == 0, done.stderr
    assert f"DASK_CONFIG={folder}" in done.stderr
    return folder


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> Iterator[Farm]:
    """A farm with TLS and one worker."""
    env: Mapping[str, str] = {"DASK_CONFIG": str(certificates)}
    with open_farm(tmp_path_factory.mktemp("farm"), workers=1, env=env) as opened:
        yield opened


def test_a_farm_with_certificates_uses_tls(farm: Farm, certificates: Path, tmp_path: Path) -> None:
    """An address without a scheme is one with TLS, and a run makes its images."""
    assert farm.address.startswith("tls://")
    config = write_work(tmp_path, "txt2img", steps=2)
    given = ("run", config, "--farm", f"127.0.0.1:{farm.port}")
    done = stagewright(*given, folder=tmp_path, env=settings(certificates))
    assert done.returncode == 0, done.stderr
    assert "COMPLETED" in done.stdout


def test_settings_that_require_tls_refuse_an_address_without_it(
    farm: Farm, certificates: Path, tmp_path: Path
) -> None:
    """The message says which address to use."""
    given = ("farm", "status", f"tcp://127.0.0.1:{farm.port}")
    done = stagewright(*given, folder=tmp_path, env=settings(certificates))
    assert done.returncode == 2
    assert "Dask's settings require TLS" in done.stderr


def _expired(folder: Path, trusted: Path) -> None:
    """Copies of trusted certificates that are not valid any more."""
    shutil.copytree(trusted, folder)
    text = (folder / "dask.yaml").read_text(encoding="utf-8")
    (folder / "dask.yaml").write_text(text.replace(str(trusted), str(folder)), encoding="utf-8")
    for role in ("worker", "client"):
        key, authority = (
            load_pem_private_key((trusted / f"{name}-key.pem").read_bytes(), None)
            for name in (role, "ca")
        )
        assert isinstance(key, EllipticCurvePrivateKey)
        assert isinstance(authority, EllipticCurvePrivateKey)
        old = _certificate(f"stagewright farm {role}", key, authority, days=0)
        (folder / f"{role}.pem").write_bytes(old)


def _of_another_authority(folder: Path, trusted: Path) -> None:
    del trusted
    make_certificates(folder, days=1)


def _none(folder: Path, trusted: Path) -> None:
    del trusted
    folder.mkdir()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_of_another_authority, "certificate verify failed"),
        (_expired, "expired|EOF occurred"),
        (_none, "Dask's settings have none"),
    ],
)
def test_a_process_without_a_valid_certificate_is_refused(
    farm: Farm, certificates: Path, tmp_path: Path, make: object, reason: str
) -> None:
    """Neither a controller nor a worker gets in with a foreign certificate, or with none."""
    assert callable(make)
    make(tmp_path / "own", certificates)
    env, address = settings(tmp_path / "own"), f"tls://127.0.0.1:{farm.port}"
    worker = ("farm", "worker", "--scheduler", address, "--server", farm.servers[0].url)
    for arguments in (("farm", "status", address), worker):
        done = stagewright(*arguments, folder=tmp_path, env=env)
        assert done.returncode == 2, done.stdout
        assert re.search(reason, done.stderr)


def test_keys_are_for_their_owner_alone(certificates: Path) -> None:
    """Nobody else may read a key, and an authority is not replaced."""
    for key in certificates.glob("*-key.pem"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    again = stagewright("farm", "certificates", certificates, folder=certificates.parent)
    assert again.returncode == 2
    assert "ca.pem exists" in again.stderr


def test_the_page_about_a_studio_names_commands_that_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every command of docs/farm.md has the options and arguments that the page gives it."""
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "farm.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\$? ?stagewright (.+)$", page, re.MULTILINE)
    assert len(lines) >= 7
    with click.Context(stagewright_group) as context:
        for line in lines:
            command: click.Command | None = stagewright_group
            arguments = shlex.split(line)
            while isinstance(command, click.Group):
                command = command.get_command(context, arguments.pop(0))
            assert command is not None, line
            command.make_context(command.name, arguments, parent=context)
