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
from petiole.workers.cli._conversation import (
    APPROVAL_REQUESTED,
    ChatExchange,
    Conversation,
    ReceivedMessage,
    new_stream_id,
)
from petiole.workers.cli._options import POSITIVE, connected_app, format_command
from petiole.workers.observability.flow_tree import recorded_at_ms, shorten
from petiole.workers.observability.printable import replace_unprintable

_QUIT_COMMAND = "/quit"
_MAX_QUOTED = 40


@click.command
@click.option("--stream", metavar="ID", help="The conversation to continue; by default a new one.")
@click.option("--user", default="you", show_default=True, metavar="ID", help="The user who sends the messages.")
@click.option(
    "--timeout",
    type=POSITIVE,
    default=30.0,
    show_default=True,
    metavar="S",
    help="Give up after so many seconds in which nothing happens.",
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
            if isinstance(item, RecordedEvent) and item.topic == APPROVAL_REQUESTED:
                _print_pending_approvals(console, exchange)
        return
    with Live(console=console, auto_refresh=False) as live:
        for _ in conversation.follow(exchange, limit_s):
            waiting = [Text(line, style="bold") for line in _describe_approvals(exchange)]
            answer = render_message("petiole", exchange.partial_answer)
            live.update(Group(render_tree(exchange.events), *waiting, answer), refresh=True)
        # `_print_answer` shows the answer that was sent.
        live.update(render_tree(exchange.events), refresh=True)


def _render_line(item: RecordedEvent | Chunk, exchange: ChatExchange) -> Text:
    if isinstance(item, Chunk):
        return render_chunk_line(item)
    return render_flow_line(item, recorded_at_ms(exchange.events[0]))


def _print_answer(console: Console, conversation: Conversation, exchange: ChatExchange, limit_s: float) -> None:
    messages = list(conversation.take_messages())
    own = exchange.message.content.text
    for message in messages:
        console.print(render_message(_author(message, own), message.text))
    # The outbound messages do not have the answer if another reader took it.
    is_shown = any(message.kind == "answer" and message.question == own for message in messages)
    if exchange.answer and not is_shown:
        console.print(render_message("petiole", exchange.answer))
    if exchange.is_interrupted:
        console.print("(interrupted by a newer message)", style="dim")
    if not exchange.is_over:
        _print_unanswered(console, exchange, limit_s)


def _author(message: ReceivedMessage, own_question: str) -> str:
    """Name the author, and what the message is unless it is the answer to the last question."""
    if message.kind != "answer":
        return f"petiole ({message.kind})"
    if message.question is None or message.question == own_question:
        return "petiole"
    return f'petiole (to "{shorten(message.question, _MAX_QUOTED)}")'


def _print_unanswered(console: Console, exchange: ChatExchange, limit_s: float) -> None:
    if exchange.pending_approvals:
        _print_pending_approvals(console, exchange)
        click.echo("the answer is shown here, after your next message, once that is decided", err=True)
        return
    click.echo(
        f"nothing has happened for {limit_s:g} s; check that a worker runs: {format_command('agents')}", err=True
    )


def _print_pending_approvals(console: Console, exchange: ChatExchange) -> None:
    for line in _describe_approvals(exchange):
        console.print(line, style="bold", soft_wrap=True, markup=False)


def _describe_approvals(exchange: ChatExchange) -> list[str]:
    return [
        f"waiting for approval of {replace_unprintable(str(call['tool']))}; decide it: "
        + format_command(f"approvals grant {call['approval_id']}")
        for call in exchange.pending_approvals
    ]
