"""Watch events as they are published."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice

import click

from petiole.events.topics import TopicTrie
from petiole.tasks.stores.history import BEGINNING, History, Recorded
from petiole.workers.cli._console import line, open_console, print_json, print_line
from petiole.workers.cli._options import A_PATTERN, as_json, connected_app

_WAIT_MS = 1_000
_ALL_AND_ERRORS = ("*", "error.*")


@click.command
@click.argument("pattern", required=False, type=A_PATTERN)
@click.option("--from-start", is_flag=True, help="Begin with the oldest event that is kept, not with the next one.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many events.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="S", help="End after so many seconds.")
@as_json
def command(pattern: str | None, count: int | None, timeout: float | None, *, from_start: bool, as_json: bool) -> None:
    """Watch events as they are published, one line each; Ctrl-C ends.

    PATTERN is a topic, or one with '*': 'input.*' for all below input, 'tools.*.completed' for any one word. Without
    it every event is shown, errors included.
    """
    history = connected_app().stores.history
    began = BEGINNING if from_start else history.last_entry_id()
    deadline = None if timeout is None else time.monotonic() + timeout
    hears = _listener(pattern)
    show = _shown_as_json if as_json else _shown_as_line()
    try:
        for recorded in islice((each for each in _follow(history, began, deadline) if hears(each)), count):
            show(recorded)
    except KeyboardInterrupt:
        return


def _follow(history: History, entry_id: str, deadline: float | None) -> Iterator[Recorded]:
    """Yield events as they are recorded, until the deadline."""
    while True:
        left_ms = _WAIT_MS if deadline is None else min(_WAIT_MS, int((deadline - time.monotonic()) * 1_000))
        found = history.since(entry_id, block_ms=left_ms) if left_ms > 0 else history.since(entry_id)
        for recorded in found:
            entry_id = recorded.entry_id
            yield recorded
        if left_ms <= 0 and not found:
            return


def _listener(pattern: str | None) -> Callable[[Recorded], bool]:
    trie: TopicTrie[bool] = TopicTrie()
    for each in (pattern,) if pattern else _ALL_AND_ERRORS:
        trie.add(each, listener=True)
    return lambda recorded: bool(trie.match(recorded.topic))


def _shown_as_line() -> Callable[[Recorded], None]:
    console = open_console()
    return lambda recorded: print_line(console, line(recorded))


def _shown_as_json(recorded: Recorded) -> None:
    print_json(recorded.shown)
