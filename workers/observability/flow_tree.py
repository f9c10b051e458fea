"""Flow tree: the events of a flow ordered by cause, and each event in a few words.

The command line and the console show them. No function here reads a store.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from petiole.tasks.stores.history import RecordedEvent
from petiole.workers.observability.printable import replace_unprintable

_MAX_SUMMARY_LENGTH = 80


@dataclass(frozen=True, slots=True)
class TreeRow:
    """One event in the tree by causation. `depth` counts the causes shown above it."""

    recorded: RecordedEvent
    offset_ms: int
    depth: int


def build_tree_rows(recorded: Sequence[RecordedEvent]) -> list[TreeRow]:
    """Order events as a tree by causation: every event below its cause, siblings in recorded order.

    An event whose cause is missing is a root. If causes form a circle, its first event is a root. Offsets count from
    the first event, by the history's clock.
    """
    children = _group_by_cause(recorded)
    began_ms = min((recorded_at_ms(event) for event in recorded), default=0)
    seen: set[str] = set()
    # Roots first, then the events that no walk has reached: the members of circles.
    return [
        TreeRow(event, recorded_at_ms(event) - began_ms, depth)
        for root in (*children[None], *recorded)
        for event, depth in _walk(root, children, seen)
    ]


def group_by_flow(recorded: Iterable[RecordedEvent]) -> dict[str, list[RecordedEvent]]:
    """Group events by correlation id. Flows and their events keep the recorded order."""
    flows: dict[str, list[RecordedEvent]] = {}
    for event in recorded:
        flows.setdefault(str(event.attributes["correlation_id"]), []).append(event)
    return flows


def recorded_at_ms(recorded: RecordedEvent) -> int:
    """Return when an event was recorded, in milliseconds since 1970, by the clock of the store."""
    return recorded.recorded_at_ms


def publisher_name(document: Mapping[str, object]) -> str:
    """Return who published an event: the last agent on its path, or else its user or source."""
    path = document.get("path")
    if isinstance(path, Sequence) and path:
        return str(path[-1])
    context = document.get("context")
    origin = context if isinstance(context, Mapping) else {}
    return replace_unprintable(str(origin.get("user_id") or origin.get("source") or "-"))


def summarize_content(document: Mapping[str, object]) -> str:
    """Summarize an event's content: its text, or else its values."""
    content = document.get("content")
    if not isinstance(content, Mapping):
        return ""
    text = content["text"] if isinstance(content.get("text"), str) else _format_values(content)
    return shorten(replace_unprintable(str(text)))


def shorten(text: str, length: int = _MAX_SUMMARY_LENGTH) -> str:
    """Cut a text to a length, and end a cut text with `…`."""
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"


def _group_by_cause(recorded: Sequence[RecordedEvent]) -> defaultdict[str | None, list[RecordedEvent]]:
    """Group events by the id of their cause; None if the cause is missing."""
    known = {_event_id(event) for event in recorded}
    children: defaultdict[str | None, list[RecordedEvent]] = defaultdict(list)
    for event in recorded:
        cause = event.attributes.get("causation_id")
        children[str(cause) if cause in known else None].append(event)
    return children


def _walk(
    root: RecordedEvent, children: Mapping[str | None, list[RecordedEvent]], seen: set[str]
) -> Iterator[tuple[RecordedEvent, int]]:
    # An explicit stack: a chain of causes may be deeper than Python's recursion limit.
    stack = [(root, 0)]
    while stack:
        event, depth = stack.pop()
        if _event_id(event) in seen:
            continue
        seen.add(_event_id(event))
        yield event, depth
        stack.extend((child, depth + 1) for child in reversed(children.get(_event_id(event), [])))


def _event_id(recorded: RecordedEvent) -> str:
    return str(recorded.attributes["event_id"])


def _format_values(content: Mapping[str, object]) -> str:
    return "  ".join(
        f"{name}={_format_value(value)}" for name, value in content.items() if value not in (None, "", [], {})
    )


def _format_value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
