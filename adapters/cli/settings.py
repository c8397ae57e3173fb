"""The settings of the user: files and environment variables, below the command line."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import click
import msgspec
import platformdirs

from ...statemachine.config.formats import read_document
from ...statemachine.config.validation import SECRET, convert_document, refuse_userinfo
from ...statemachine.errors import ConfigurationError
from ..backends.http.address import ServerAddress
from ..backends.restart import RestartCommand
from ..notifications.settings import NotifySettings
from .common_options import CONFIG_FILE, RUNS, SERVERS, is_quiet
from .statuses import EXIT_COMPLETED, print_error

CONFIG_FILE_VARIABLE = "STAGEWRIGHT_CONFIG_FILE"
SERVER_VARIABLE = "STAGEWRIGHT_SERVER"
RUNS_VARIABLE = "STAGEWRIGHT_RUNS"
FOLDER_FILE = "stagewright.toml"
DEFAULT_RUNS = Path("runs")
_IN_A_FOLDER = ("server", "runs", "profiles")
"""What the file of a folder may hold: it may have come with somebody else's work."""
_FROM_VARIABLE = "env:"
_HEADER_NAME = re.compile(r"[A-Za-z0-9_-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e\xa0-\xff]*")
_KEY = "stagewright.settings"


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[servers."https://host"]``: headers for that origin alone."""

    headers: Annotated[Mapping[str, Annotated[str, SECRET]], SECRET] = {}


class SettingsFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys of a file of settings."""

    server: Annotated[str | None, SECRET] = None
    runs: str | None = None
    profiles: Mapping[str, Mapping[str, Any]] = {}
    notify: NotifySettings = NotifySettings()
    restart: Mapping[str, RestartCommand] = {}
    servers: Mapping[str, ServerSettings] = {}


class DefaultServer(NamedTuple):
    """A server that is used if the configuration has none.

    Credentials go to one that the user's own file names, like to ``--server``.
    """

    url: str
    named_by_user: bool


class Profile(NamedTuple):
    """The tables of a profile, and the file and table that hold it, for messages."""

    source: str
    tables: Mapping[str, Any]


class Settings(NamedTuple):
    """What the files say: that of the folder comes first; ``of_user`` is that of the user alone."""

    runs: Path | None
    server: DefaultServer | None
    profiles: Mapping[str, Profile]
    of_user: SettingsFile


def current_settings() -> Settings:
    """The settings for this command, read once. Raises ConfigurationError."""
    meta = click.get_current_context().meta
    if _KEY not in meta:
        meta[_KEY] = read_settings(meta.get(CONFIG_FILE))
    settings: Settings = meta[_KEY]
    return settings


def read_settings(config_file: Path | None) -> Settings:
    """The settings in the file of the working folder and in that of the user.

    The latter is ``config_file`` or else in the user's configuration folder. Raises
    ConfigurationError.
    """
    folder_path = _folder_file()
    user_path = _user_file(config_file)
    of_folder = SettingsFile() if folder_path is None else _read(folder_path, is_of_folder=True)
    of_user = SettingsFile() if user_path is None else _read(user_path)
    server = None
    if of_folder.server:
        server = DefaultServer(of_folder.server, named_by_user=False)
    elif of_user.server:
        server = DefaultServer(of_user.server, named_by_user=True)
    return Settings(
        runs=_runs(of_folder, folder_path) or _runs(of_user, user_path),
        server=server,
        profiles={
            name: Profile(f"{path}: profiles.{name}", tables)
            for path, file in ((user_path, of_user), (folder_path, of_folder))
            for name, tables in file.profiles.items()
        },
        of_user=of_user,
    )


def named_servers(servers: tuple[str, ...]) -> tuple[str, ...]:
    """The servers that the user named: on the command line, or one in STAGEWRIGHT_SERVER."""
    given = servers or click.get_current_context().meta.get(SERVERS, ())
    of_environment = os.environ.get(SERVER_VARIABLE)
    return given or ((of_environment,) if of_environment else ())


def runs_folder(given: Path | None) -> Path:
    """The folder of the runs: of the command line, the environment or the settings."""
    named: Path | None = given or click.get_current_context().meta.get(RUNS)
    return named or default_runs_folder()


def default_runs_folder() -> Path:
    """The folder of the runs without ``--runs``."""
    variable = os.environ.get(RUNS_VARIABLE)
    return Path(variable) if variable else current_settings().runs or DEFAULT_RUNS


def server_headers() -> Mapping[str, Mapping[str, str]]:
    """The headers for each server, by its address; ``env:NAME`` is the variable NAME.

    Raises ConfigurationError, which does not quote a value.
    """
    return {
        url: {name: _header_value(url, name, text) for name, text in table.headers.items()}
        for url, table in current_settings().of_user.servers.items()
    }


def _header_value(url: str, name: str, text: str) -> str:
    value: str | None = text
    where = f"servers.{url}.headers.{name}"
    if text.startswith(_FROM_VARIABLE):
        variable = text.removeprefix(_FROM_VARIABLE)
        value = os.environ.get(variable)
        if value is None:
            raise ConfigurationError(f"{where}: the variable {variable} is not set", key=where)
    if not _HEADER_NAME.fullmatch(name) or value is None or not _HEADER_VALUE.fullmatch(value):
        raise ConfigurationError(
            f"{where}: a header has a name of letters, digits and -, and a value in one line of "
            "Latin letters",
            key=where,
        )
    return value


def find_profile(name: str | None) -> Profile:
    """A profile; an empty one without a name. Raises ConfigurationError."""
    if name is None:
        return Profile("", {})
    known = current_settings().profiles
    if name not in known:
        names = ", ".join(sorted(known)) or "none"
        raise ConfigurationError(f"there is no profile {name!r}; the settings have: {names}")
    return known[name]


def _user_file(config_file: Path | None) -> Path | None:
    named = config_file or os.environ.get(CONFIG_FILE_VARIABLE)
    if named:
        return Path(named)
    path = platformdirs.user_config_path("stagewright", appauthor=False) / "config.toml"
    try:
        return path if path.is_file() else None
    except PermissionError:
        return None  # the home folder of another user


def _folder_file() -> Path | None:
    """The nearest file in the working folder or above it, if the user owns it."""
    try:
        here = Path.cwd()
    except OSError:
        return None  # the working folder is gone
    for folder in (here, *here.parents):
        path = folder / FOLDER_FILE
        try:
            owner = path.stat().st_uid
        except OSError:
            continue
        if sys.platform != "win32" and owner != os.getuid():
            _note(f"{path}: ignored, because another user owns it")
            return None
        return path
    return None


def _read(path: Path, *, is_of_folder: bool = False) -> SettingsFile:
    document = read_document(path, "TOML")
    if is_of_folder:
        ignored = [key for key in document if key not in _IN_A_FOLDER]
        if ignored:
            _note(f"{path}: ignored: {', '.join(ignored)} (only in your own file of settings)")
        document = {key: document[key] for key in document if key in _IN_A_FOLDER}
    file = convert_document(document, SettingsFile, str(path))
    refuse_userinfo(file.server, f"{path}: server")
    for address, restart in file.restart.items():
        try:
            ServerAddress.parse(address)
        except ConfigurationError as error:
            # Not quoted: the address may hold a password.
            raise ConfigurationError(
                f"{path}: restart: each key is the address of a server, without user and password, "
                "such as http://127.0.0.1:7860",
                key="restart",
            ) from error
        if not restart.command:
            key = f"restart.{address}.command"
            raise ConfigurationError(f"{path}: {key} must be a program and its arguments", key=key)
    return file


def _runs(file: SettingsFile, path: Path | None) -> Path | None:
    """A relative path is relative to the file that holds it."""
    if not file.runs or path is None:
        return None
    return path.parent / Path(file.runs).expanduser()


def _note(text: str) -> None:
    if not is_quiet():
        print_error(f"note: {text}", EXIT_COMPLETED)
