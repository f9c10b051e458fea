"""See a conversation travel as events, through a worker and back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console

from tasks.celery import EventApp, app
from workers import broker
from workers.cli._conversation import Conversation, Turn, new_stream
from workers.cli._options import as_typed
from workers.console import hints, open_console, recorded_ms, said, speaker, table, tree
from workers.processes import answering, await_worker, ended_like_ctrl_c, last_lines, node_of, start_worker

NAME = "demo"
_CONCURRENCY = 2
_TURN_LIMIT_S = 30.0
_LEAST_TYPES = 8
_NEEDED_AGENTS = {"orchestrator", "memory", "tools", "llm", "output"}


@dataclass(frozen=True, slots=True)
class Line:
    """What is said, and what the answer must hold."""

    text: str
    expected: str


@dataclass(frozen=True, slots=True)
class House:
    """The workers at hand, and the log of the one that was started for this."""

    nodes: tuple[str, ...]
    log: Path | None = None


SCRIPT = (
    Line("Hello, can you help me?", expected="help"),
    Line("What is 12 * 7?", expected="84"),
    Line("What did I ask you to calculate?", expected="12 * 7"),
)


@click.command
def command() -> None:
    """See a conversation travel as events: three messages, each through a real worker on a real broker and back.

    Starts what is missing (the embedded broker, a worker) and stops it again. Exits with 1 where an answer is missing.
    """
    console = open_console()
    with ended_like_ctrl_c(), ExitStack() as started:
        house = _open_house(console, started)
        try:
            turns = _play(console, Conversation(app, new_stream(NAME), "you"))
            _sum_up(console, house, turns)
        except click.ClickException as error:
            raise _with_log(error, house.log) from error


def _open_house(console: Console, started: ExitStack) -> House:
    """Start what is missing, and have it stopped on the way out."""
    running = broker.use_embedded_broker(app)
    if running and running.started:
        started.callback(broker.stop, broker.default_home())
    console.print(_about_broker(running))
    nodes = [] if running and running.started else answering(app)
    house = House(tuple(nodes)) if nodes else House((node_of(NAME),), log=_start_worker(started))
    where = f"its log is {_near(house.log)}" if house.log else "ran before"
    console.print(f"worker   {', '.join(house.nodes)} ({where})")
    _check_agents(app)
    return house


def _about_broker(running: broker.Running | None) -> str:
    if running is None:
        return "broker   the one that is configured"
    return f"broker   embedded, under {_near(broker.default_home())}{'' if running.started else ' (ran before)'}"


def _start_worker(started: ExitStack) -> Path:
    log = broker.default_home() / "worker.log"
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    output = started.enter_context(log.open("w", encoding="utf-8"))
    worker = start_worker(NAME, concurrency=_CONCURRENCY, output=output)
    started.callback(worker.stop)
    await_worker(app, worker, node_of(NAME), log=log)
    return log


def _check_agents(app: EventApp) -> None:
    _, subscriptions = app.stores.directory.read()
    if missing := sorted(_NEEDED_AGENTS - {each.agent for each in subscriptions}):
        raise click.ClickException(f"nobody announced {', '.join(missing)}; the demo needs workers with all agents")


def _play(console: Console, conversation: Conversation) -> list[Turn]:
    return [_take_turn(console, conversation, line) for line in SCRIPT]


def _take_turn(console: Console, conversation: Conversation, line: Line) -> Turn:
    console.print()
    console.print(said("you", line.text))
    console.print()
    turn = conversation.say(line.text)
    for _ in conversation.follow(turn, _TURN_LIMIT_S):
        pass
    console.print(tree(turn.events))
    console.print()
    console.print(said("petiole", turn.answer or "(no answer)"))
    _check(turn, line)
    return turn


def _check(turn: Turn, line: Line) -> None:
    """Hold the turn against what a demo promises. Raises ClickException."""
    types = {recorded.topic for recorded in turn.events}
    if turn.answer is None:
        raise click.ClickException(f"no answer within {_TURN_LIMIT_S:g} s; {len(turn.events)} events were seen")
    if line.expected not in turn.answer:
        raise click.ClickException(f"the answer does not contain {line.expected!r}")
    if len(types) < _LEAST_TYPES:
        raise click.ClickException(f"{len(types)} types of events were seen, not {_LEAST_TYPES} or more")
    if turn.events[0].topic != "input.message.received":
        raise click.ClickException(f"the turn began with {turn.events[0].topic}, not with the message")


def _sum_up(console: Console, house: House, turns: Sequence[Turn]) -> None:
    console.print()
    cells = [
        (number, turn.message.correlation_id, len(turn.events), len({each.topic for each in turn.events}), _took(turn))
        for number, turn in enumerate(turns, start=1)
    ]
    headings = ("turn", "correlation id", "events", "types", "answered after")
    console.print(table(headings, cells, numbers=("turn", "events", "types", "answered after")))
    events = [recorded for turn in turns for recorded in turn.events]
    speakers = dict.fromkeys(speaker(recorded.attributes) for recorded in events)
    types = {recorded.topic for recorded in events}
    console.print(f"{len(events)} events of {len(types)} types, said by {', '.join(speakers)}")
    console.print(f"{_processes(house.nodes)}\n")
    _say_what_next(console, turns[0].message.stream_id)


def _took(turn: Turn) -> str:
    return f"{recorded_ms(turn.events[-1]) - recorded_ms(turn.events[0])} ms"


def _processes(nodes: Sequence[str]) -> str:
    stats = app.control.inspect(destination=list(nodes), timeout=1.0).stats() or {}
    workers = [f"{node} with {len(each['pool']['processes'])} processes" for node, each in sorted(stats.items())]
    return f"handled by {', '.join(workers or nodes)}"


def _say_what_next(console: Console, stream_id: str) -> None:
    console.print("What to type next", style="bold")
    commands = [
        (as_typed("up"), "broker, worker and beat; then, in another terminal:"),
        (as_typed("chat"), "talk to the agents"),
        (as_typed("tail"), "watch every event as it is published"),
        (as_typed(f"trace {stream_id}"), "see this conversation again"),
    ]
    console.print(hints(commands))


def _with_log(error: click.ClickException, log: Path | None) -> click.ClickException:
    lines = last_lines(log)
    return click.ClickException(f"{error.message}\nthe last lines of {log}:\n{lines}" if lines else error.message)


def _near(path: Path) -> str:
    """Word a path as seen from here, where it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
