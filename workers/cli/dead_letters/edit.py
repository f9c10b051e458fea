"""The new event of a dead letter, as it is typed: whole, place by place, or in an editor."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import click

from petiole.tasks.dead_letters import Kept, locked_in
from petiole.workers.cli._console import open_console


def event_for(kept: Kept, text: str | None, changes: Sequence[str]) -> dict[str, object]:
    """Read the new event: from a text, else by changes of the old one, else from $EDITOR. Raises BadParameter."""
    if text is not None:
        return _object(text, "--file")
    return _changed(kept, changes) if changes else _typed(kept)


def _object(text: str, option: str) -> dict[str, object]:
    try:
        event = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise click.BadParameter(f"this is no JSON: {error}", param_hint=option) from error
    if not isinstance(event, dict):
        raise click.BadParameter("write the event as a JSON object", param_hint=option)
    return event


def _changed(kept: Kept, changes: Sequence[str]) -> dict[str, object]:
    if not isinstance(kept.letter.document, Mapping):
        raise click.BadParameter("this letter has no event to change; give a whole one by --file", param_hint="--set")
    event: dict[str, object] = json.loads(json.dumps(kept.letter.document))
    for change in changes:
        path, is_there, value = change.partition("=")
        if not is_there or not path:
            raise click.BadParameter(
                f"{change!r}: write a path, '=' and a value: content.text=Hello", param_hint="--set"
            )
        _put(event, path.split("."), _value(value), change)
    return event


def _put(event: dict[str, object], path: list[str], value: object, change: str) -> None:
    place: object = event
    for name in path[:-1]:
        place = place.setdefault(name, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise click.BadParameter(f"{change!r}: there is no object at {'.'.join(path[:-1])!r}", param_hint="--set")
    place[path[-1]] = value


def _value(text: str) -> object:
    """Read a value as JSON; what is none is a text."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return text


def _typed(kept: Kept) -> dict[str, object]:
    """Let the operator change the event in an editor."""
    letter = kept.letter
    written = json.dumps(letter.document, indent=2, ensure_ascii=False) if letter.document is not None else "{}"
    locked = ", ".join(locked_in(letter))
    if locked:
        open_console(stderr=True).print(f"these stay as they are: {locked}")
    changed = click.edit(written + "\n", extension=".json")
    if changed is None or changed.strip() == written.strip():
        raise click.ClickException("nothing was changed; save the event in the editor, or give it by --file or --set")
    return _object(changed, "$EDITOR")
