"""What a shell completes: runs and the keys of a configuration; the README says how."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
from click.shell_completion import CompletionItem

from .common_options import RUNS

_MOST_RUNS = 100


Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _completer(*, runs: bool, groups: bool) -> Complete:
    """Completes runs and groups by the last six digits of their ids, or else a file.

    The newest come first, then ``last`` or ``last-group``.
    """

    def complete(
        context: click.Context, _parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        folder = given_runs_folder(context)
        found = [*(_runs(folder) if runs else ()), *(_groups(folder) if groups else ())]
        return fitting(found, incomplete) or [CompletionItem(incomplete, type="file")]

    return complete


complete_run = _completer(runs=True, groups=False)
complete_run_or_group = _completer(runs=True, groups=True)
complete_group = _completer(runs=False, groups=True)


def given_runs_folder(context: click.Context) -> Path:
    """The folder of the runs, in a command that is not complete."""
    from .settings import runs_folder  # noqa: PLC0415 - only a completion needs it

    given = context.params.get("runs") or context.meta.get(RUNS)
    return runs_folder(Path(given) if given else None)


def fitting(found: Iterable[CompletionItem], incomplete: str) -> list[CompletionItem]:
    """Those that begin with what was typed."""
    return [item for item in found if str(item.value).startswith(incomplete)]


def _runs(folder: Path) -> Iterator[CompletionItem]:
    from ..projections.catalogue import Catalogue  # noqa: PLC0415 - only a completion needs it

    entries = Catalogue(folder).entries(limit=_MOST_RUNS)
    for one in entries:
        yield CompletionItem(one.run_id[-6:], help=f"{one.name}, {one.state}")
    if entries:
        yield CompletionItem("last")


def _groups(folder: Path) -> Iterator[CompletionItem]:
    from ...statemachine.files.run_folder import name_in_run_id  # noqa: PLC0415 - as above
    from ...statemachine.groups.folder import LAST_GROUP, groups_of  # noqa: PLC0415 - as above

    groups = list(islice(groups_of(folder), _MOST_RUNS))
    for one in groups:
        yield CompletionItem(one[-6:], help=f"group {name_in_run_id(one)}")
    if groups:
        yield CompletionItem(LAST_GROUP)


def complete_key(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The dotted keys of a configuration, each with its ``=``."""
    from ...statemachine.config.schema import (  # noqa: PLC0415 - only a completion needs it
        RunTables,
        type_with_stages,
    )

    keys = sorted(f"{key}=" for key in _keys(type_with_stages(RunTables)))
    return fitting(map(CompletionItem, keys), incomplete)


def _keys(kind: Any, path: str = "") -> Iterator[str]:
    """The fields of a table and of the tables in it; ``0`` stands for the first one of a list."""
    for field in msgspec.structs.fields(kind):
        name = f"{path}{field.encode_name}"
        tables = list(_tables(field.type))
        if not tables:
            yield name
        for table, is_listed in tables:
            yield from _keys(table, f"{name}.0." if is_listed else f"{name}.")


def _tables(hint: Any, *, is_listed: bool = False) -> Iterator[tuple[Any, bool]]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        yield hint, is_listed
    for part in get_args(hint):
        yield from _tables(part, is_listed=is_listed or getattr(hint, "__origin__", None) is tuple)
