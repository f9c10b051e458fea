"""Watch events as they are published."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice

import click

from petiole.tasks.operations.listening import follow_history
from petiole.tasks.stores.history import HISTORY_START, RecordedEvent
from petiole.workers.cli._console import open_console, print_json, print_line, render_event_line
from petiole.workers.cli._options import PATTERN, SECONDS, connected_app, json_option


@click.command
@click.argument("pattern", required=False, type=PATTERN)
@click.option("--from-start", is_flag=True, help="Begin with the oldest recorded event.")
@click.option("--count", type=click.IntRange(min=1), help="End after this many events.")
@click.option("--timeout", type=SECONDS, metavar="S", help="End after this many seconds.")
@json_option
def command(pattern: str | None, count: int | None, timeout: float | None, *, from_start: bool, as_json: bool) -> None:
    """Watch events as they are published, one line per event; Ctrl-C ends.

    PATTERN is a topic, or contains '*' for one or more words: 'input.*', 'tools.*.completed'. Without PATTERN every
    event is shown, errors included.
    """
    history = connected_app().stores.history
    start = HISTORY_START if from_start else history.last_entry_id()
    deadline = None if timeout is None else time.monotonic() + timeout
    show = _print_json if as_json else _line_printer()
    try:
        for recorded in islice(follow_history(history, pattern, start, deadline), count):
            show(recorded)
    except KeyboardInterrupt:
        return


def _line_printer() -> Callable[[RecordedEvent], None]:
    console = open_console()
    return lambda recorded: print_line(console, render_event_line(recorded))


def _print_json(recorded: RecordedEvent) -> None:
    print_json(recorded.document_or_stub)
