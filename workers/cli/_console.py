"""Render events for a terminal: as a tree by causation with times, as lines, as tables.

No function here reads a store or a broker. An event's text comes from an untrusted source, so characters that control
a terminal are replaced before the text is shown.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from petiole.tasks.stores.history import RecordedEvent
from petiole.tasks.stores.response_streams import Chunk
from petiole.workers.observability.flow_tree import (
    TreeRow,
    build_tree_rows,
    publisher_name,
    recorded_at_ms,
    summarize_content,
)
from petiole.workers.observability.printable import printable_lines, replace_unprintable

MIN_WIDTH, MAX_WIDTH = 60, 100
_PIPE_WIDTH = 100_000

_STYLES = {
    "input": "green",
    "orchestrator": "cyan",
    "memory": "magenta",
    "tools": "yellow",
    "llm": "blue",
    "output": "green",
    "error": "red",
}


class _CompactTree(Tree):
    """A tree that indents by three columns instead of four, so that ten levels fit into 80 columns."""

    TREE_GUIDES = [("   ", "│  ", "├─ ", "└─ ")] * 3
    ASCII_GUIDES = ("   ", "|  ", "|- ", "`- ")


class _PrintableConsole(Console):
    """A console whose lines control no terminal, whatever ids and names they contain."""

    def print(self, *objects: Any, **options: Any) -> None:
        if not self.is_terminal and all(isinstance(shown, str | Text | _ListTable) for shown in objects):
            # A program reads a pipe line by line. `width` goes no further than the console's.
            width, self.width = self.width, _PIPE_WIDTH
            super().print(*map(_printable, objects), **options)
            self.width = width
        else:
            super().print(*map(_printable, objects), **options)


class _ListTable(Table):
    """A table with one line per row when it is piped."""


def _printable(shown: object) -> object:
    if isinstance(shown, str):
        return printable_lines(shown)
    if isinstance(shown, Text):
        shown.plain = printable_lines(shown.plain)  # as long as before, so styles keep their places
    return shown


def open_console(*, stderr: bool = False) -> Console:
    """Open the terminal or pipe, at most 100 columns wide. Only a terminal gets colours.

    Texts and lists do not wrap in a pipe.
    """
    console = _PrintableConsole(stderr=stderr, highlight=False, markup=False, emoji=False)
    # A narrower terminal wraps the lines itself; tables would break after each letter.
    console.width = min(max(console.width, MIN_WIDTH), MAX_WIDTH) if console.is_terminal else MAX_WIDTH
    return console


def print_json(value: object) -> None:
    """Print a value as one line of JSON, in ASCII, so that no character can control the terminal."""
    sys.stdout.write(json.dumps(value, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def print_line(console: Console, text: Text) -> None:
    """Print one line, cut to the width of a terminal; a pipe gets the whole line."""
    if console.is_terminal:
        console.print(text, no_wrap=True, overflow="ellipsis")
    else:
        console.print(text, soft_wrap=True)


def render_tree(recorded: Sequence[RecordedEvent]) -> Table:
    """Render events as a tree: topic, publisher, time since the first event."""
    ordered = build_tree_rows(recorded)
    drawn = Table.grid(padding=(0, 2))
    drawn.add_column(min_width=51)  # the only column that may wrap, so a narrow terminal shrinks it first
    drawn.add_column(no_wrap=True, overflow="ellipsis", max_width=20)
    drawn.add_column(no_wrap=True, justify="right", min_width=9, style="dim")
    # rich renders a tree as one cell. So the table has one row, and each cell one line per event.
    drawn.add_row(
        Group(*_trees(ordered)),
        Text("\n".join(publisher_name(row.recorded.attributes) for row in ordered)),
        Text("\n".join(_format_offset(row.offset_ms) for row in ordered)),
    )
    return drawn


def render_event_line(recorded: RecordedEvent) -> Text:
    """Render an event as one line: time, topic, stream, publisher, content."""
    document = recorded.document_or_stub
    at = datetime.fromtimestamp(recorded_at_ms(recorded) / 1_000, UTC).astimezone()
    drawn = Text()
    drawn.append(f"{at:%H:%M:%S}.{at.microsecond // 1_000:03}  ", style="dim")
    drawn.append(f"{recorded.topic:<32}", style=_topic_style(recorded.topic))
    drawn.append(f"  {replace_unprintable(str(document['stream_id'])):<14}  {publisher_name(document):<12}  ")
    drawn.append(summarize_content(document), style="dim")
    return drawn


def render_flow_line(recorded: RecordedEvent, began_ms: int) -> Text:
    """Render an event of a running flow as one line: time since the flow began, topic, publisher."""
    drawn = Text()
    drawn.append(f"{_format_offset(recorded_at_ms(recorded) - began_ms):>10}  ", style="dim")
    drawn.append(f"{recorded.topic:<36}", style=_topic_style(recorded.topic))
    drawn.append(f"  {publisher_name(recorded.attributes)}")
    return drawn


def render_chunk_line(chunk: Chunk) -> Text:
    """Render a chunk of a response stream as one line: its text, or its kind."""
    return Text(
        f"{'…':>10}  {replace_unprintable(chunk.text) if chunk.kind == 'delta' else f'({chunk.kind})'}", style="dim"
    )


def render_message(author: str, text: str) -> Table:
    """Render a message beside its author's name."""
    drawn = Table.grid(padding=(0, 2))
    drawn.add_column(min_width=7, style="bold", no_wrap=True)
    drawn.add_column(overflow="fold")
    drawn.add_row(author, Text(replace_unprintable(text)))
    return drawn


def render_hints(commands: Iterable[tuple[str, str]]) -> Table:
    """Render commands with their purposes."""
    drawn = Table.grid(padding=(0, 3, 0, 0))
    drawn.add_column(no_wrap=True)
    drawn.add_column(overflow="fold")
    for command, purpose in commands:
        drawn.add_row(Text(f"  {command}"), Text(purpose))
    return drawn


def render_table(
    headings: Sequence[str], cells: Iterable[Sequence[object]], *, numbers: Sequence[str] = (), gap: int = 3
) -> Table:
    """Render a table. The columns named in `numbers` are aligned to the right; `gap` is the space between columns."""
    drawn = _ListTable(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim")
    for heading in headings:
        drawn.add_column(heading, justify="right" if heading in numbers else "left", overflow="fold")
    for row in cells:
        drawn.add_row(*(Text(replace_unprintable(str(cell))) for cell in row))
    return drawn


def _trees(ordered: Sequence[TreeRow]) -> list[Tree]:
    """Render one tree per root."""
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
