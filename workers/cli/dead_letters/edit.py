"""Read the edited event of a dead letter: from a file, from single values, or from an editor."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TextIO

import click

from petiole.tasks.dead_letters import DeadLetterRecord, locked_fields
from petiole.workers.cli._console import open_console


def read_new_event(record: DeadLetterRecord, text: str | None, changes: Sequence[str]) -> dict[str, object]:
    """Read the new event: from a text, else from changes of the old event, else from $EDITOR. Raises BadParameter."""
    if text is not None:
        return _parse_object(text, "--file")
    return _apply_changes(record, changes) if changes else _edit_in_editor(record)


def read_text(file: TextIO) -> str:
    """Read the file of `--file`. Raises BadParameter."""
    try:
        return file.read()
    except UnicodeDecodeError as error:
        raise click.BadParameter(f"is no UTF-8 text ({error.reason})", param_hint="--file") from error


def _parse_object(text: str, option: str) -> dict[str, object]:
    try:
        event = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise click.BadParameter(f"not valid JSON: {error}", param_hint=option) from error
    if not isinstance(event, dict):
        raise click.BadParameter("write the event as a JSON object", param_hint=option)
    return event


def _apply_changes(record: DeadLetterRecord, changes: Sequence[str]) -> dict[str, object]:
    if not isinstance(record.letter.document, Mapping):
        raise click.BadParameter(
            "this letter contains no event to change; give a whole event with --file", param_hint="--set"
        )
    event: dict[str, object] = json.loads(json.dumps(record.letter.document))
    for change in changes:
        path, separator, value = change.partition("=")
        if not separator or not path:
            raise click.BadParameter(
                f"{change!r}: write a path, '=' and a value: content.text=Hello", param_hint="--set"
            )
        _set_value(event, path.split("."), _parse_value(value), change)
    return event


def _set_value(event: dict[str, object], path: list[str], value: object, change: str) -> None:
    parent: object = event
    for name in path[:-1]:
        parent = parent.setdefault(name, {}) if isinstance(parent, dict) else None
    if not isinstance(parent, dict):
        raise click.BadParameter(f"{change!r}: there is no object at {'.'.join(path[:-1])!r}", param_hint="--set")
    parent[path[-1]] = value


def _parse_value(text: str) -> object:
    """Parse a value as JSON; return it as text if it is not valid JSON."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return text


def _edit_in_editor(record: DeadLetterRecord) -> dict[str, object]:
    """Open the event in an editor and return the changed event. Raises ClickException if nothing was changed."""
    letter = record.letter
    original = json.dumps(letter.document, indent=2, ensure_ascii=False) if letter.document is not None else "{}"
    locked = ", ".join(locked_fields(letter))
    if locked:
        open_console(stderr=True).print(f"these fields cannot be changed: {locked}")
    changed = click.edit(original + "\n", extension=".json")
    if changed is None or changed.strip() == original.strip():
        raise click.ClickException("nothing was changed; save the event in the editor, or use --file or --set")
    return _parse_object(changed, "$EDITOR")
