"""See a conversation travel as events, through a worker and back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console

from petiole.tasks.bus import default_bus
from petiole.tasks.runtime import BusRuntime
from petiole.workers.cli._console import (
    open_console,
    publisher_name,
    recorded_at_ms,
    render_hints,
    render_message,
    render_table,
    render_tree,
)
from petiole.workers.cli._conversation import ChatExchange, Conversation, new_stream_id
from petiole.workers.cli._options import format_command
from petiole.workers.process import embedded_broker
from petiole.workers.process.child_processes import (
    list_responding_workers,
    node_name,
    read_last_lines,
    signals_as_keyboard_interrupt,
    start_worker,
    wait_for_worker,
)

DEMO_WORKER = "demo"
_CONCURRENCY = 2
_ANSWER_TIMEOUT_S = 30.0
_MIN_EVENT_TYPES = 8
_REQUIRED_AGENTS = {"orchestrator", "memory", "tools", "llm", "output"}


@dataclass(frozen=True, slots=True)
class ScriptLine:
    """What is said, and what the answer must hold."""

    text: str
    expected: str


@dataclass(frozen=True, slots=True)
class RunningWorkers:
    """The workers at hand, and the log of the one that was started for this."""

    nodes: tuple[str, ...]
    log: Path | None = None


SCRIPT = (
    ScriptLine("Hello, can you help me?", expected="help"),
    ScriptLine("What is 12 * 7?", expected="84"),
    ScriptLine("What did I ask you to calculate?", expected="12 * 7"),
)


@click.command
def command() -> None:
    """See a conversation travel as events: three messages, each through a real worker on a real broker and back.

    Starts what is missing (the embedded broker, a worker) and stops it again. Exits with 1 where an answer is missing.
    """
    console = open_console()
    with signals_as_keyboard_interrupt(), ExitStack() as started:
        house = _start_workers(console, started)
        try:
            turns = _run_script(console, Conversation(default_bus, new_stream_id(DEMO_WORKER), "you"))
            _print_summary(console, house, turns)
        except click.ClickException as error:
            raise _with_log(error, house.log) from error


def _start_workers(console: Console, started: ExitStack) -> RunningWorkers:
    """Start what is missing, and have it stopped on the way out."""
    running = embedded_broker.use_embedded_broker(default_bus)
    if running and running.was_started:
        started.callback(embedded_broker.stop_broker, embedded_broker.default_home())
    console.print(_describe_broker(running))
    nodes = [] if running and running.was_started else list_responding_workers(default_bus)
    house = (
        RunningWorkers(tuple(nodes)) if nodes else RunningWorkers((node_name(DEMO_WORKER),), log=_start_worker(started))
    )
    where = f"its log is {_relative_path(house.log)}" if house.log else "ran before"
    console.print(f"worker   {', '.join(house.nodes)} ({where})")
    _check_agents(default_bus)
    return house


def _describe_broker(running: embedded_broker.RunningBroker | None) -> str:
    if running is None:
        return "broker   the one that is configured"
    note = "" if running.was_started else " (ran before)"
    return f"broker   embedded, under {_relative_path(embedded_broker.default_home())}{note}"


def _start_worker(started: ExitStack) -> Path:
    log = embedded_broker.default_home() / "worker.log"
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    output = started.enter_context(log.open("w", encoding="utf-8"))
    worker = start_worker(DEMO_WORKER, concurrency=_CONCURRENCY, output=output)
    started.callback(worker.stop)
    wait_for_worker(default_bus, worker, node_name(DEMO_WORKER), log=log)
    return log


def _check_agents(bus: BusRuntime) -> None:
    _, subscriptions = bus.stores.directory.read()
    if missing := sorted(_REQUIRED_AGENTS - {each.agent for each in subscriptions}):
        raise click.ClickException(f"nobody announced {', '.join(missing)}; the demo needs workers with all agents")


def _run_script(console: Console, conversation: Conversation) -> list[ChatExchange]:
    return [_run_exchange(console, conversation, line) for line in SCRIPT]


def _run_exchange(console: Console, conversation: Conversation, line: ScriptLine) -> ChatExchange:
    console.print()
    console.print(render_message("you", line.text))
    console.print()
    turn = conversation.send(line.text)
    for _ in conversation.follow(turn, _ANSWER_TIMEOUT_S):
        pass
    console.print(render_tree(turn.events))
    console.print()
    console.print(render_message("petiole", turn.answer or "(no answer)"))
    _check_exchange(turn, line)
    return turn


def _check_exchange(turn: ChatExchange, line: ScriptLine) -> None:
    """Hold the turn against what a demo promises. Raises ClickException."""
    types = {recorded.topic for recorded in turn.events}
    if turn.answer is None:
        raise click.ClickException(f"no answer within {_ANSWER_TIMEOUT_S:g} s; {len(turn.events)} events were seen")
    if line.expected not in turn.answer:
        raise click.ClickException(f"the answer does not contain {line.expected!r}")
    if len(types) < _MIN_EVENT_TYPES:
        raise click.ClickException(f"{len(types)} types of events were seen, not {_MIN_EVENT_TYPES} or more")
    if turn.events[0].topic != "input.message.received":
        raise click.ClickException(f"the turn began with {turn.events[0].topic}, not with the message")


def _print_summary(console: Console, house: RunningWorkers, turns: Sequence[ChatExchange]) -> None:
    console.print()
    cells = [
        (
            number,
            turn.message.correlation_id,
            len(turn.events),
            len({each.topic for each in turn.events}),
            _format_duration(turn),
        )
        for number, turn in enumerate(turns, start=1)
    ]
    headings = ("turn", "correlation id", "events", "types", "answered after")
    console.print(render_table(headings, cells, numbers=("turn", "events", "types", "answered after")))
    events = [recorded for turn in turns for recorded in turn.events]
    speakers = dict.fromkeys(publisher_name(recorded.attributes) for recorded in events)
    types = {recorded.topic for recorded in events}
    console.print(f"{len(events)} events of {len(types)} types, said by {', '.join(speakers)}")
    console.print(f"{_processes(house.nodes)}\n")
    _print_next_steps(console, turns[0].message.stream_id)


def _format_duration(turn: ChatExchange) -> str:
    return f"{recorded_at_ms(turn.events[-1]) - recorded_at_ms(turn.events[0])} ms"


def _processes(nodes: Sequence[str]) -> str:
    stats = default_bus.app.control.inspect(destination=list(nodes), timeout=1.0).stats() or {}
    workers = [f"{node} with {len(each['pool']['processes'])} processes" for node, each in sorted(stats.items())]
    return f"handled by {', '.join(workers or nodes)}"


def _print_next_steps(console: Console, stream_id: str) -> None:
    console.print("What to type next", style="bold")
    commands = [
        (format_command("up"), "broker, worker and beat; then, in another terminal:"),
        (format_command("chat"), "talk to the agents"),
        (format_command("tail"), "watch every event as it is published"),
        (format_command(f"trace {stream_id}"), "see this conversation again"),
    ]
    console.print(render_hints(commands))


def _with_log(error: click.ClickException, log: Path | None) -> click.ClickException:
    lines = read_last_lines(log)
    return click.ClickException(f"{error.message}\nthe last lines of {log}:\n{lines}" if lines else error.message)


def _relative_path(path: Path) -> str:
    """Word a path as seen from here, where it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
