"""``schema``: prints the JSON Schema of a configuration."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from ....statemachine.config.legacy import RunDocument
from ....statemachine.config.schema import type_with_stages
from ....statemachine.stages import load_stages, stage_types


@click.command("schema")
@click.option(
    "--json", is_flag=True, expose_value=False, help="Not needed: the output is always JSON."
)
def schema_command() -> None:
    """Print the JSON Schema of a configuration."""
    load_stages()
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "stagewright configuration",
        **msgspec.json.schema(type_with_stages(RunDocument)),
    }
    for stage in stage_types().values():
        for name in stage.plan_only:
            schema["$defs"][stage.__name__]["properties"].pop(name, None)
    click.echo(msgspec.json.format(msgspec.json.encode(schema)).decode())
