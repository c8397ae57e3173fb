"""What a shell completes: runs and the keys of a configuration; the README says how."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
from click.shell_completion import CompletionItem

from .common_options import RUNS

_MOST_RUNS = 100


def complete_run(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Runs by the last six digits of their ids, the newest first, and ``last``; else a file."""
    return _complete(context, incomplete, with_runs=True, with_groups=False)


def complete_run_or_group(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The same, then groups by their last six digits, and ``last-group``."""
    return _complete(context, incomplete, with_runs=True, with_groups=True)


def complete_group(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Groups alone."""
    return _complete(context, incomplete, with_runs=False, with_groups=True)


def _complete(
    context: click.Context, incomplete: str, *, with_runs: bool, with_groups: bool
) -> list[CompletionItem]:
    from ...statemachine.files.run_folder import (  # noqa: PLC0415 - only a completion needs it
        name_in_run_id,
    )
    from ...statemachine.groups.folder import LAST_GROUP, groups_of  # noqa: PLC0415 - the same
    from ..projections.catalogue import Catalogue  # noqa: PLC0415 - only a completion needs it
    from .settings import runs_folder  # noqa: PLC0415 - the same

    given = context.params.get("runs") or context.meta.get(RUNS)
    runs = runs_folder(Path(given) if given else None)
    entries = Catalogue(runs).entries(limit=_MOST_RUNS) if with_runs else []
    found = [CompletionItem(one.run_id[-6:], help=f"{one.name}, {one.state}") for one in entries]
    found += [CompletionItem("last")] if entries else []
    groups = list(islice(groups_of(runs), _MOST_RUNS)) if with_groups else []
    found += [CompletionItem(one[-6:], help=f"group {name_in_run_id(one)}") for one in groups]
    found += [CompletionItem(LAST_GROUP)] if groups else []
    fitting = [item for item in found if str(item.value).startswith(incomplete)]
    return fitting or [CompletionItem(incomplete, type="file")]


def complete_key(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The dotted keys of a configuration, each with its ``=``."""
    from ...statemachine.config.schema import (  # noqa: PLC0415 - only a completion needs it
        RunTables,
        type_with_stages,
    )

    keys = sorted(f"{key}=" for key in _keys(type_with_stages(RunTables)))
    return [CompletionItem(key) for key in keys if key.startswith(incomplete)]


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
