"""The new event of a dead letter, as it is typed: whole, place by place, or in an editor."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import click

from petiole.tasks.dead_letters import DeadLetterRecord, locked_fields
from petiole.workers.cli._console import open_console


def read_new_event(kept: DeadLetterRecord, text: str | None, changes: Sequence[str]) -> dict[str, object]:
    """Read the new event: from a text, else by changes of the old one, else from $EDITOR. Raises BadParameter."""
    if text is not None:
        return _parse_object(text, "--file")
    return _apply_changes(kept, changes) if changes else _edit_in_editor(kept)


def _parse_object(text: str, option: str) -> dict[str, object]:
    try:
        event = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise click.BadParameter(f"this is no JSON: {error}", param_hint=option) from error
    if not isinstance(event, dict):
        raise click.BadParameter("write the event as a JSON object", param_hint=option)
    return event


def _apply_changes(kept: DeadLetterRecord, changes: Sequence[str]) -> dict[str, object]:
    if not isinstance(kept.letter.document, Mapping):
        raise click.BadParameter("this letter has no event to change; give a whole one by --file", param_hint="--set")
    event: dict[str, object] = json.loads(json.dumps(kept.letter.document))
    for change in changes:
        path, is_there, value = change.partition("=")
        if not is_there or not path:
            raise click.BadParameter(
                f"{change!r}: write a path, '=' and a value: content.text=Hello", param_hint="--set"
            )
        _set_value(event, path.split("."), _parse_value(value), change)
    return event


def _set_value(event: dict[str, object], path: list[str], value: object, change: str) -> None:
    place: object = event
    for name in path[:-1]:
        place = place.setdefault(name, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise click.BadParameter(f"{change!r}: there is no object at {'.'.join(path[:-1])!r}", param_hint="--set")
    place[path[-1]] = value


def _parse_value(text: str) -> object:
    """Read a value as JSON; what is none is a text."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return text


def _edit_in_editor(kept: DeadLetterRecord) -> dict[str, object]:
    """Let the operator change the event in an editor."""
    letter = kept.letter
    written = json.dumps(letter.document, indent=2, ensure_ascii=False) if letter.document is not None else "{}"
    locked = ", ".join(locked_fields(letter))
    if locked:
        open_console(stderr=True).print(f"these stay as they are: {locked}")
    changed = click.edit(written + "\n", extension=".json")
    if changed is None or changed.strip() == written.strip():
        raise click.ClickException("nothing was changed; save the event in the editor, or give it by --file or --set")
    return _parse_object(changed, "$EDITOR")
