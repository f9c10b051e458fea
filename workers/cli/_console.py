"""Console: how events look to people: a tree of causes with times, a line of what happens, a table of what there is.

Nothing here reads a store or a broker. What events say comes from anywhere: it is stripped of all that drives a
terminal before it is shown.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from petiole.tasks.stores.history import RecordedEvent
from petiole.tasks.stores.response_streams import Chunk

MAX_WIDTH = 100
_MAX_SUMMARY_LENGTH = 80

_STYLES = {
    "input": "green",
    "orchestrator": "cyan",
    "memory": "magenta",
    "tools": "yellow",
    "llm": "blue",
    "output": "green",
    "error": "red",
}


@dataclass(frozen=True, slots=True)
class TreeRow:
    """One event's place in the tree of causes; the depth counts the causes shown above it."""

    recorded: RecordedEvent
    offset_ms: int
    depth: int


class _CompactTree(Tree):
    """A tree of rich with three columns a level instead of four: a flow of ten levels fits a terminal of 80 columns."""

    TREE_GUIDES = [("   ", "│  ", "├─ ", "└─ ")] * 3
    ASCII_GUIDES = ("   ", "|  ", "|- ", "`- ")


def open_console(*, stderr: bool = False) -> Console:
    """Open the terminal, or the pipe in its place, at most 100 columns wide; colours in a terminal only."""
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal or console.width > MAX_WIDTH:
        console.width = MAX_WIDTH
    return console


def print_json(value: object) -> None:
    """Print a value as one line of JSON, in ASCII: whatever an event says, it drives no terminal."""
    sys.stdout.write(json.dumps(value, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def print_line(console: Console, text: Text) -> None:
    """Print one line: cut to the width of a terminal, whole for whatever reads a pipe."""
    if console.is_terminal:
        console.print(text, no_wrap=True, overflow="ellipsis")
    else:
        console.print(text, soft_wrap=True)


def build_tree_rows(recorded: Sequence[RecordedEvent]) -> list[TreeRow]:
    """Order events as a tree by causation: each below its cause, siblings as they were recorded.

    An event whose cause is not among them stands as a root; where causes form a circle, its first event does.
    Times are counted from the first event, by the history's clock.
    """
    children = _group_by_cause(recorded)
    began_ms = min((recorded_at_ms(each) for each in recorded), default=0)
    seen: set[str] = set()
    # Those without a cause first, then whatever no walk has reached: the members of circles.
    return [
        TreeRow(each, recorded_at_ms(each) - began_ms, depth)
        for root in (*children[None], *recorded)
        for each, depth in _walk(root, children, seen)
    ]


def group_by_flow(recorded: Iterable[RecordedEvent]) -> dict[str, list[RecordedEvent]]:
    """Divide events by correlation id, flows and events in the order they were recorded."""
    found: dict[str, list[RecordedEvent]] = {}
    for each in recorded:
        found.setdefault(str(each.attributes["correlation_id"]), []).append(each)
    return found


def recorded_at_ms(recorded: RecordedEvent) -> int:
    """Read when an event was recorded, in milliseconds since 1970; one clock for all publishers."""
    return recorded.recorded_at_ms


def publisher_name(document: Mapping[str, object]) -> str:
    """Tell who said an event: the agent that spoke last on the way to it, or where it came from."""
    path = document.get("path")
    if isinstance(path, Sequence) and path:
        return str(path[-1])
    context = document.get("context")
    origin = context if isinstance(context, Mapping) else {}
    return replace_unprintable(str(origin.get("user_id") or origin.get("source") or "-"))


def summarize_content(document: Mapping[str, object]) -> str:
    """Tell in a few words what an event holds: its text, or else its values."""
    content = document.get("content")
    if not isinstance(content, Mapping):
        return ""
    said = content["text"] if isinstance(content.get("text"), str) else _format_values(content)
    return shorten(replace_unprintable(str(said)))


def replace_unprintable(text: str) -> str:
    """Put a space for each character that is not one to see: those move cursors, set titles, turn writing round."""
    return "".join(character if character.isprintable() else " " for character in text)


def shorten(text: str, length: int = _MAX_SUMMARY_LENGTH) -> str:
    """Cut a text to a length, and show that it was cut."""
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"


def render_tree(recorded: Sequence[RecordedEvent]) -> Table:
    """Draw events as a tree: topic, who said it, time since the first."""
    ordered = build_tree_rows(recorded)
    drawn = Table.grid(padding=(0, 2))
    drawn.add_column(min_width=51)  # as the only one that may wrap, it gives way first where a terminal is narrow
    drawn.add_column(no_wrap=True, overflow="ellipsis", max_width=20)
    drawn.add_column(no_wrap=True, justify="right", min_width=9, style="dim")
    # rich draws a tree as a whole: so one row of three cells, with one line for each event.
    drawn.add_row(
        Group(*_trees(ordered)),
        Text("\n".join(publisher_name(row.recorded.attributes) for row in ordered)),
        Text("\n".join(_format_offset(row.offset_ms) for row in ordered)),
    )
    return drawn


def render_event_line(recorded: RecordedEvent) -> Text:
    """Draw an event as one line: time, topic, stream, who said it, what it holds."""
    document = recorded.document_or_stub
    at = datetime.fromtimestamp(recorded_at_ms(recorded) / 1_000, UTC).astimezone()
    drawn = Text()
    drawn.append(f"{at:%H:%M:%S}.{at.microsecond // 1_000:03}  ", style="dim")
    drawn.append(f"{recorded.topic:<32}", style=_topic_style(recorded.topic))
    drawn.append(f"  {replace_unprintable(str(document['stream_id'])):<14}  {publisher_name(document):<12}  ")
    drawn.append(summarize_content(document), style="dim")
    return drawn


def render_flow_line(recorded: RecordedEvent, began_ms: int) -> Text:
    """Draw an event as one line of a flow that is under way: time since it began, topic, who said it."""
    drawn = Text()
    drawn.append(f"{_format_offset(recorded_at_ms(recorded) - began_ms):>10}  ", style="dim")
    drawn.append(f"{recorded.topic:<36}", style=_topic_style(recorded.topic))
    drawn.append(f"  {publisher_name(recorded.attributes)}")
    return drawn


def render_chunk_line(chunk: Chunk) -> Text:
    """Draw a piece of an answer that is being written as one line: its text, or what it marks."""
    return Text(
        f"{'…':>10}  {replace_unprintable(chunk.text) if chunk.kind == 'delta' else f'({chunk.kind})'}", style="dim"
    )


def render_message(speaker: str, text: str) -> Table:
    """Draw what somebody said, beside the name."""
    drawn = Table.grid(padding=(0, 2))
    drawn.add_column(min_width=7, style="bold", no_wrap=True)
    drawn.add_column(overflow="fold")
    drawn.add_row(speaker, Text(replace_unprintable(text)))
    return drawn


def render_hints(commands: Iterable[tuple[str, str]]) -> Table:
    """Draw commands to type, each with what it is for."""
    drawn = Table.grid(padding=(0, 3, 0, 0))
    drawn.add_column(no_wrap=True)
    drawn.add_column(overflow="fold")
    for command, purpose in commands:
        drawn.add_row(Text(f"  {command}"), Text(purpose))
    return drawn


def render_table(headings: Sequence[str], cells: Iterable[Sequence[object]], *, numbers: Sequence[str] = ()) -> Table:
    """Draw a table; the columns named in `numbers` are set to the right."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for heading in headings:
        drawn.add_column(heading, justify="right" if heading in numbers else "left", overflow="fold")
    for row in cells:
        drawn.add_row(*(Text(replace_unprintable(str(cell))) for cell in row))
    return drawn


def _group_by_cause(recorded: Sequence[RecordedEvent]) -> defaultdict[str | None, list[RecordedEvent]]:
    """List events under the event that caused them; under None where that one is not at hand."""
    known = {_event_id(each) for each in recorded}
    children: defaultdict[str | None, list[RecordedEvent]] = defaultdict(list)
    for each in recorded:
        cause = each.attributes.get("causation_id")
        children[str(cause) if cause in known else None].append(each)
    return children


def _walk(
    root: RecordedEvent, children: Mapping[str | None, list[RecordedEvent]], seen: set[str]
) -> Iterator[tuple[RecordedEvent, int]]:
    # A stack of its own: chains of causes may be longer than Python's.
    waiting = [(root, 0)]
    while waiting:
        each, depth = waiting.pop()
        if _event_id(each) in seen:
            continue
        seen.add(_event_id(each))
        yield each, depth
        waiting.extend((child, depth + 1) for child in reversed(children.get(_event_id(each), [])))


def _event_id(recorded: RecordedEvent) -> str:
    return str(recorded.attributes["event_id"])


def _trees(ordered: Sequence[TreeRow]) -> list[Tree]:
    """Draw one tree for each root."""
    trees: list[Tree] = []
    branch: list[Tree] = []
    for row in ordered:
        topic = Text(row.recorded.topic, style=_topic_style(row.recorded.topic), no_wrap=True, overflow="ellipsis")
        del branch[row.depth :]
        node = branch[-1].add(topic) if branch else _CompactTree(topic, guide_style="dim")
        if not branch:
            trees.append(node)
        branch.append(node)
    return trees


def _format_offset(offset_ms: int) -> str:
    return f"+{offset_ms:,} ms" if offset_ms else "0 ms"


def _topic_style(topic: str) -> str:
    return _STYLES.get(topic.partition(".")[0], "white")


def _format_values(content: Mapping[str, object]) -> str:
    return "  ".join(
        f"{name}={_format_value(value)}" for name, value in content.items() if value not in (None, "", [], {})
    )


def _format_value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
