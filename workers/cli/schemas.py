"""Export the JSON Schemas of event types, and compare two exports for changes that break."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from petiole.events.schema_changes import SchemaChange, compare_schemas
from petiole.events.schemas import Schema, read_schemas, schema_of, write_schemas
from petiole.tasks.bus import default_bus
from petiole.workers.cli._console import open_console, print_json, render_table
from petiole.workers.cli._options import json_option, load_types

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
own_option = click.option("--own", is_flag=True, help="Only types that are not in the catalog.")


@click.group
def command() -> None:
    """Export the JSON Schemas of event types, and compare two exports. Needs no broker.

    Your own types are those of PETIOLE_EVENT_TYPES, and of the modules in PETIOLE_AGENTS.
    """


@command.command
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@own_option
def export(folder: Path, *, own: bool) -> None:
    """Write the JSON Schema of each event type to a file in FOLDER; delete those of types that are gone."""
    registry = load_types(default_bus)
    names = write_schemas(registry, registry.custom() if own else registry.all(), folder)
    click.echo(f"{len(names)} schemas in {folder}")


@command.command
@click.argument("old", type=FOLDER)
@click.argument("new", type=FOLDER, required=False)
@own_option
@json_option
@click.pass_context
def diff(ctx: click.Context, old: Path, new: Path | None, *, own: bool, as_json: bool) -> None:
    """Compare the schemas in the folder OLD with those in NEW; by default with the types of this process.

    Each change is compatible, or breaks older events, older processes or publishers, and says what to do. Exits with
    1 if a change breaks something, else with 0. With --own, types of the catalog in OLD are ignored.
    """
    before = read_schemas(old)
    after = read_schemas(new) if new else _own_schemas(own=own)
    if own:
        builtin = {event_type.topic for event_type in load_types(default_bus).all() if event_type.is_builtin}
        before, after = ({topic: each[topic] for topic in each.keys() - builtin} for each in (before, after))
    changes = compare_schemas(before, after)
    if as_json:
        print_json([asdict(change) | {"remedy": change.remedy} for change in changes])
    else:
        _print(changes)
    ctx.exit(1 if any(change.breaks for change in changes) else 0)


def _own_schemas(*, own: bool) -> dict[str, Schema]:
    registry = load_types(default_bus)
    return {each.topic: schema_of(each, registry) for each in (registry.custom() if own else registry.all())}


def _print(changes: list[SchemaChange]) -> None:
    cells = [
        (each.topic, each.field, each.kind, each.detail, f"breaks {each.breaks}" if each.breaks else "compatible")
        for each in changes
    ]
    console = open_console()
    if cells:
        console.print(render_table(("type", "field", "change", "", "effect"), cells))
    for remedy in dict.fromkeys((each.topic, each.remedy) for each in changes if each.breaks):
        console.print(f"{remedy[0]}: {remedy[1]}", soft_wrap=True)
    breaking = sum(bool(each.breaks) for each in changes)
    console.print(f"{len(changes)} changes, {breaking} of them break something" if changes else "no changes")
