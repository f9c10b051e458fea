"""Chat with the agents, and watch the events of each message."""

from __future__ import annotations

import sys

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from petiole.tasks.stores.history import RecordedEvent
from petiole.tasks.stores.response_streams import Chunk
from petiole.workers.cli._console import (
    open_console,
    print_line,
    render_chunk_line,
    render_flow_line,
    render_message,
    render_tree,
)
from petiole.workers.cli._conversation import ChatExchange, Conversation, new_stream_id
from petiole.workers.cli._options import POSITIVE, connected_app, format_command
from petiole.workers.observability.flow_tree import recorded_at_ms
from petiole.workers.observability.printable import replace_unprintable

_QUIT_COMMAND = "/quit"


@click.command
@click.option("--stream", metavar="ID", help="The conversation to continue; by default a new one.")
@click.option("--user", default="you", show_default=True, metavar="ID", help="The user who sends the messages.")
@click.option(
    "--timeout",
    type=POSITIVE,
    default=30.0,
    show_default=True,
    metavar="S",
    help="Wait for an answer at most this many seconds.",
)
def command(stream: str | None, user: str, timeout: float) -> None:
    """Chat with the agents: type a line, watch the events that it causes, read the answer.

    /quit or the end of the input ends the chat. Lines may also come through a pipe; the exit code is then 1 if one of
    them got no answer.
    """
    conversation = Conversation(connected_app(), stream or new_stream_id("chat"), user)
    console = open_console()
    console.print(replace_unprintable(f"stream {conversation.stream_id}   (/quit ends)"), style="dim")
    unanswered = 0
    while (text := _read(console)) is not None:
        exchange = conversation.send(text)
        _watch(console, conversation, exchange, timeout)
        unanswered += not exchange.is_over
        _print_answer(console, conversation, exchange, timeout)
    if unanswered and not sys.stdin.isatty():
        raise SystemExit(1)


def _read(console: Console) -> str | None:
    """Read the next line that is not empty. Returns None at the end."""
    while True:
        try:
            text = (
                console.input("[bold]you      [/]", markup=True).strip()
                if sys.stdin.isatty()
                else _read_piped_line(console)
            )
        except (EOFError, KeyboardInterrupt):
            console.print()
            return None
        if text:
            return None if text == _QUIT_COMMAND else text


def _read_piped_line(console: Console) -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    console.print(render_message("you", line.strip()))
    return line.strip()


def _watch(console: Console, conversation: Conversation, exchange: ChatExchange, limit_s: float) -> None:
    """Show an exchange's events and its answer as they arrive: as a growing tree in a terminal, else as lines."""
    if not console.is_terminal:
        for item in conversation.follow(exchange, limit_s):
            print_line(console, _render_line(item, exchange))
        return
    with Live(console=console, auto_refresh=False) as live:
        for _ in conversation.follow(exchange, limit_s):
            live.update(
                Group(render_tree(exchange.events), render_message("petiole", exchange.partial_answer)), refresh=True
            )
        # `_print_answer` shows the answer that was sent.
        live.update(render_tree(exchange.events), refresh=True)


def _render_line(item: RecordedEvent | Chunk, exchange: ChatExchange) -> Text:
    if isinstance(item, Chunk):
        return render_chunk_line(item)
    return render_flow_line(item, recorded_at_ms(exchange.events[0]))


def _print_answer(console: Console, conversation: Conversation, exchange: ChatExchange, limit_s: float) -> None:
    # The outbound messages may also contain a suggestion. They are empty if another reader took the answer.
    for text in list(conversation.take_messages()) or [exchange.answer or ""]:
        if text:
            console.print(render_message("petiole", text))
    if exchange.is_interrupted:
        console.print("(interrupted by a newer message)", style="dim")
    if not exchange.is_over:
        hint = f"no answer within {limit_s:g} s; check that a worker runs: {format_command('agents')}"
        click.echo(hint, err=True)
