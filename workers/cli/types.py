"""List the event types with their fields: the catalog, and your own types."""

from __future__ import annotations

import difflib
from dataclasses import asdict

import click

from petiole.events.event import OpenEvent
from petiole.events.registry import EventType
from petiole.events.topics import TopicTrie
from petiole.tasks.bus import default_bus
from petiole.workers.cli._console import open_console, print_json, render_table
from petiole.workers.cli._options import PATTERN, json_option, load_types
from petiole.workers.cli._schema_fields import list_fields


@click.command
@click.argument("pattern", required=False, type=PATTERN)
@click.option("--own", is_flag=True, help="Only types that are not in the catalog.")
@json_option
def command(pattern: str | None, *, own: bool, as_json: bool) -> None:
    """List the event types; with PATTERN, those that match it, with the fields of their content.

    PATTERN is a topic, or contains '*' for one or more words: 'input.*'. Your own types are those of
    PETIOLE_EVENT_TYPES, and of the modules in PETIOLE_AGENTS. Needs no broker.
    """
    registry = load_types(default_bus)
    types = [each for each in registry.all() if not (own and each.is_builtin) and _matches(pattern, each)]
    if not types and pattern is not None:
        nearest = difflib.get_close_matches(pattern, [each.topic for each in registry.all()], n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else "list all: petiole types"
        raise click.ClickException(f"no event type matches {pattern!r}; {hint}")
    if as_json:
        print_json([_type_as_json(each) for each in types])
    elif pattern is None:
        cells = [
            (each.topic, each.schema_version, "" if each.is_builtin else "own", each.description) for each in types
        ]
        open_console().print(render_table(("type", "version", "", "description"), cells, numbers=("version",)))
    else:
        for event_type in types:
            _print_type(event_type)


def _matches(pattern: str | None, event_type: EventType) -> bool:
    """Return whether a type matches; an open family does if it has a topic that could."""
    if pattern is None or pattern == event_type.topic:
        return True
    trie: TopicTrie[bool] = TopicTrie()
    trie.add(pattern, listener=True)
    is_open = issubclass(event_type.model, OpenEvent) and event_type.topic.endswith(".*")
    return bool(trie.match(event_type.topic.replace("*", "any"))) or (
        is_open and pattern.startswith(event_type.topic.removesuffix("*"))
    )


def _type_as_json(event_type: EventType) -> dict[str, object]:
    return {
        "topic": event_type.topic,
        "version": event_type.schema_version,
        "is_builtin": event_type.is_builtin,
        "class": f"{event_type.model.__module__}.{event_type.model.__qualname__}",
        "description": event_type.description,
        "fields": [asdict(each) for each in list_fields(event_type)],
    }


def _print_type(event_type: EventType) -> None:
    console = open_console()
    origin = "" if event_type.is_builtin else f", {event_type.model.__module__}"
    console.print(f"{event_type.topic}  (version {event_type.schema_version}{origin})", style="bold")
    console.print(event_type.description)
    cells = [
        (each.name, each.type, "required" if each.is_required else each.default, each.description)
        for each in list_fields(event_type)
    ]
    if cells:
        console.print(render_table(("field", "type", "default", "description"), cells))
    console.print()
