"""Talk to the agents, and watch the events of each turn."""

from __future__ import annotations

import sys

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from tasks.stores.drafts import Piece
from tasks.stores.history import Recorded
from workers.cli._conversation import Conversation, Turn, new_stream
from workers.cli._options import as_typed, connected_app
from workers.console import open_console, piece_line, plain, print_line, recorded_ms, said, step, tree

_QUIT = "/quit"


@click.command
@click.option("--stream", metavar="ID", help="The conversation to go on with; by default a new one.")
@click.option("--user", default="you", show_default=True, metavar="ID", help="Who is speaking.")
@click.option("--timeout", default=30.0, show_default=True, metavar="S", help="How long to wait for an answer.")
def command(stream: str | None, user: str, timeout: float) -> None:
    """Talk to the agents: type a line, watch the events that follow, read the answer.

    /quit or the end of input ends. Lines may also come through a pipe; then it exits with 1 if one had no answer.
    """
    conversation = Conversation(connected_app(), stream or new_stream("chat"), user)
    console = open_console()
    console.print(plain(f"stream {conversation.stream_id}   (/quit ends)"), style="dim")
    unanswered = 0
    while (text := _read(console)) is not None:
        turn = conversation.say(text)
        _watch(console, conversation, turn, timeout)
        unanswered += not turn.is_over
        _tell(console, conversation, turn, timeout)
    if unanswered and not sys.stdin.isatty():
        raise SystemExit(1)


def _read(console: Console) -> str | None:
    """Read the next line that says something; None at the end."""
    while True:
        try:
            text = console.input("[bold]you      [/]", markup=True).strip() if sys.stdin.isatty() else _piped(console)
        except (EOFError, KeyboardInterrupt):
            console.print()
            return None
        if text:
            return None if text == _QUIT else text


def _piped(console: Console) -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    console.print(said("you", line.strip()))
    return line.strip()


def _watch(console: Console, conversation: Conversation, turn: Turn, limit_s: float) -> None:
    """Show a turn's events and its answer as they come: a tree and a text that grow in a terminal, lines elsewhere."""
    if not console.is_terminal:
        for each in conversation.follow(turn, limit_s):
            print_line(console, _line(each, turn))
        return
    with Live(console=console, auto_refresh=False) as live:
        for _ in conversation.follow(turn, limit_s):
            live.update(Group(tree(turn.events), said("petiole", turn.written)), refresh=True)
        # What was sent is shown below.
        live.update(tree(turn.events), refresh=True)


def _line(each: Recorded | Piece, turn: Turn) -> Text:
    if isinstance(each, Piece):
        return piece_line(each)
    return step(each, recorded_ms(turn.events[0]))


def _tell(console: Console, conversation: Conversation, turn: Turn, limit_s: float) -> None:
    # The mailbox may hold more than this answer, such as a suggestion; or nothing, where another reader was faster.
    for text in list(conversation.unread()) or [turn.answer or ""]:
        if text:
            console.print(said("petiole", text))
    if turn.is_interrupted:
        console.print("(interrupted by a newer message)", style="dim")
    if not turn.is_over:
        hint = f"no answer within {limit_s:g} s; does a worker run? See: {as_typed('agents')}"
        click.echo(hint, err=True)
