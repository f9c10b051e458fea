"""Talk to the agents, and watch the events of each turn."""

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
    recorded_at_ms,
    render_chunk_line,
    render_flow_line,
    render_message,
    render_tree,
    replace_unprintable,
)
from petiole.workers.cli._conversation import ChatExchange, Conversation, new_stream_id
from petiole.workers.cli._options import connected_app, format_command

_QUIT_COMMAND = "/quit"


@click.command
@click.option("--stream", metavar="ID", help="The conversation to go on with; by default a new one.")
@click.option("--user", default="you", show_default=True, metavar="ID", help="Who is speaking.")
@click.option("--timeout", default=30.0, show_default=True, metavar="S", help="How long to wait for an answer.")
def command(stream: str | None, user: str, timeout: float) -> None:
    """Talk to the agents: type a line, watch the events that follow, read the answer.

    /quit or the end of input ends. Lines may also come through a pipe; then it exits with 1 if one had no answer.
    """
    conversation = Conversation(connected_app(), stream or new_stream_id("chat"), user)
    console = open_console()
    console.print(replace_unprintable(f"stream {conversation.stream_id}   (/quit ends)"), style="dim")
    unanswered = 0
    while (text := _read(console)) is not None:
        turn = conversation.send(text)
        _watch(console, conversation, turn, timeout)
        unanswered += not turn.is_over
        _print_answer(console, conversation, turn, timeout)
    if unanswered and not sys.stdin.isatty():
        raise SystemExit(1)


def _read(console: Console) -> str | None:
    """Read the next line that says something; None at the end."""
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


def _watch(console: Console, conversation: Conversation, turn: ChatExchange, limit_s: float) -> None:
    """Show a turn's events and its answer as they come: a tree and a text that grow in a terminal, lines elsewhere."""
    if not console.is_terminal:
        for each in conversation.follow(turn, limit_s):
            print_line(console, _render_line(each, turn))
        return
    with Live(console=console, auto_refresh=False) as live:
        for _ in conversation.follow(turn, limit_s):
            live.update(Group(render_tree(turn.events), render_message("petiole", turn.partial_answer)), refresh=True)
        # What was sent is shown below.
        live.update(render_tree(turn.events), refresh=True)


def _render_line(item: RecordedEvent | Chunk, turn: ChatExchange) -> Text:
    if isinstance(item, Chunk):
        return render_chunk_line(item)
    return render_flow_line(item, recorded_at_ms(turn.events[0]))


def _print_answer(console: Console, conversation: Conversation, turn: ChatExchange, limit_s: float) -> None:
    # The mailbox may hold more than this answer, such as a suggestion; or nothing, where another reader was faster.
    for text in list(conversation.take_messages()) or [turn.answer or ""]:
        if text:
            console.print(render_message("petiole", text))
    if turn.is_interrupted:
        console.print("(interrupted by a newer message)", style="dim")
    if not turn.is_over:
        hint = f"no answer within {limit_s:g} s; does a worker run? See: {format_command('agents')}"
        click.echo(hint, err=True)
