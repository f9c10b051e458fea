"""Watch events as they are published."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice

import click

from petiole.events.topics import TopicTrie
from petiole.tasks.stores.history import HISTORY_START, History, RecordedEvent
from petiole.workers.cli._console import open_console, print_json, print_line, render_event_line
from petiole.workers.cli._options import PATTERN, connected_app, json_option

_HISTORY_BLOCK_MS = 1_000
_ALL_PATTERNS = ("*", "error.*")


@click.command
@click.argument("pattern", required=False, type=PATTERN)
@click.option("--from-start", is_flag=True, help="Begin with the oldest event that is kept, not with the next one.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many events.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="S", help="End after so many seconds.")
@json_option
def command(pattern: str | None, count: int | None, timeout: float | None, *, from_start: bool, as_json: bool) -> None:
    """Watch events as they are published, one line each; Ctrl-C ends.

    PATTERN is a topic, or one with '*': 'input.*' for all below input, 'tools.*.completed' for any one word. Without
    it every event is shown, errors included.
    """
    history = connected_app().stores.history
    began = HISTORY_START if from_start else history.last_entry_id()
    deadline = None if timeout is None else time.monotonic() + timeout
    hears = _pattern_filter(pattern)
    show = _print_json if as_json else _line_printer()
    try:
        for recorded in islice((each for each in _follow(history, began, deadline) if hears(each)), count):
            show(recorded)
    except KeyboardInterrupt:
        return


def _follow(history: History, entry_id: str, deadline: float | None) -> Iterator[RecordedEvent]:
    """Yield events as they are recorded, until the deadline."""
    while True:
        left_ms = (
            _HISTORY_BLOCK_MS
            if deadline is None
            else min(_HISTORY_BLOCK_MS, int((deadline - time.monotonic()) * 1_000))
        )
        found = history.read_after(entry_id, block_ms=left_ms) if left_ms > 0 else history.read_after(entry_id)
        for recorded in found:
            entry_id = recorded.entry_id
            yield recorded
        if left_ms <= 0 and not found:
            return


def _pattern_filter(pattern: str | None) -> Callable[[RecordedEvent], bool]:
    trie: TopicTrie[bool] = TopicTrie()
    for each in (pattern,) if pattern else _ALL_PATTERNS:
        trie.add(each, listener=True)
    return lambda recorded: bool(trie.match(recorded.topic))


def _line_printer() -> Callable[[RecordedEvent], None]:
    console = open_console()
    return lambda recorded: print_line(console, render_event_line(recorded))


def _print_json(recorded: RecordedEvent) -> None:
    print_json(recorded.document_or_stub)
