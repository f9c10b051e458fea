"""Run a short conversation through all agents, and show its events."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
from rich.console import Console

from petiole.tasks.bus import default_bus
from petiole.tasks.runtime import BusRuntime
from petiole.workers.cli._console import open_console, render_hints, render_message, render_table, render_tree
from petiole.workers.cli._conversation import ChatExchange, Conversation, new_stream_id
from petiole.workers.cli._options import format_command
from petiole.workers.cli._voice_demo import check_voice, run_voice_demo
from petiole.workers.console import CONSOLE_PORT, is_installed
from petiole.workers.observability.flow_tree import publisher_name, recorded_at_ms
from petiole.workers.process import embedded_broker
from petiole.workers.process.child_processes import (
    list_responding_workers,
    node_name,
    read_last_lines,
    signals_as_keyboard_interrupt,
    start_worker,
    wait_for_worker,
)
from petiole.workers.process.watchdog import Watchdog

DEMO_WORKER = "demo"
_ANSWER_TIMEOUT_S = 30.0
_MIN_EVENT_TYPES = 8
_REQUIRED_AGENTS = {"orchestrator", "memory", "tools", "llm", "output"}


@dataclass(frozen=True, slots=True)
class ScriptLine:
    """A message, and a text that its answer must contain."""

    text: str
    expected: str


@dataclass(frozen=True, slots=True)
class RunningWorkers:
    """The running workers, and the log of the worker that the demo started."""

    nodes: tuple[str, ...]
    log: Path | None = None


SCRIPT = (
    ScriptLine("Hello, can you help me?", expected="help"),
    ScriptLine("What is 12 * 7?", expected="84"),
    ScriptLine("What did I ask you to calculate?", expected="12 * 7"),
)


@click.command
@click.option("--voice", is_flag=True, help="Speak instead: send a recording, and record the spoken answer.")
@click.option("--console", "has_console", is_flag=True, help="Stay, and show a system in a browser that you can break.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), help="The console's port; by default 8766, or another one if it is taken."
)
def command(*, voice: bool, has_console: bool, port: int | None) -> None:
    """Run a conversation of three messages through a real worker and a real broker, and show its events.

    Starts the embedded broker and a worker if none runs, and stops them at the end. Exits with 1 if an answer is
    missing. With --console, a system of its own in a temporary directory is shown until Ctrl-C; it uses no setting and
    no broker of yours.
    """
    console = open_console()
    if has_console:
        from petiole.workers.cli._console_demo import run_console_demo  # noqa: PLC0415 - registers event types and a tool

        with signals_as_keyboard_interrupt(), suppress(KeyboardInterrupt):
            run_console_demo(console, port)
        return
    if voice:
        check_voice()
    watchdog = Watchdog()
    watchdog.offer("broker", partial(embedded_broker.stop_broker, embedded_broker.default_home()))
    with signals_as_keyboard_interrupt(), watchdog, ExitStack() as started:
        workers = _start_workers(console, started, watchdog)
        try:
            if voice:
                run_voice_demo(console, default_bus)
                return
            exchanges = _run_script(console, Conversation(default_bus, new_stream_id(DEMO_WORKER), "you"))
            _print_summary(console, workers, exchanges)
        except click.ClickException as error:
            raise _with_log(error, workers.log) from error


def _start_workers(console: Console, started: ExitStack, watchdog: Watchdog) -> RunningWorkers:
    """Start the broker and a worker if none runs; `started` stops them at the end."""
    running = embedded_broker.use_embedded_broker(default_bus)
    if running and running.was_started:
        started.callback(embedded_broker.stop_broker, embedded_broker.default_home())
        watchdog.add("broker")
    console.print(_describe_broker(running))
    nodes = [] if running and running.was_started else list_responding_workers(default_bus)
    if nodes:
        workers = RunningWorkers(tuple(nodes))
    else:
        workers = RunningWorkers((node_name(DEMO_WORKER),), log=_start_worker(started, watchdog))
    where = f"its log is {_relative_path(workers.log)}" if workers.log else "was running already"
    console.print(f"worker   {', '.join(workers.nodes)} ({where})")
    _check_agents(default_bus)
    return workers


def _describe_broker(running: embedded_broker.RunningBroker | None) -> str:
    if running is None:
        return "broker   the configured one"
    note = "" if running.was_started else " (was running already)"
    return f"broker   embedded, under {_relative_path(embedded_broker.default_home())}{note}"


def _start_worker(started: ExitStack, watchdog: Watchdog) -> Path:
    log = embedded_broker.default_home() / "worker.log"
    output = started.enter_context(embedded_broker.open_in_home(log.name))
    output.truncate(0)
    worker = start_worker(DEMO_WORKER, output=output, watchdog=watchdog)
    started.callback(worker.stop)
    wait_for_worker(default_bus, worker, node_name(DEMO_WORKER), log=log)
    return log


def _check_agents(bus: BusRuntime) -> None:
    _, subscriptions = bus.stores.directory.read()
    if missing := sorted(_REQUIRED_AGENTS - {subscription.agent for subscription in subscriptions}):
        raise click.ClickException(f"no worker registered {', '.join(missing)}; the demo needs workers with all agents")


def _run_script(console: Console, conversation: Conversation) -> list[ChatExchange]:
    return [_run_exchange(console, conversation, line) for line in SCRIPT]


def _run_exchange(console: Console, conversation: Conversation, line: ScriptLine) -> ChatExchange:
    console.print()
    console.print(render_message("you", line.text))
    console.print()
    exchange = conversation.send(line.text)
    for _ in conversation.follow(exchange, _ANSWER_TIMEOUT_S):
        pass
    console.print(render_tree(exchange.events))
    console.print()
    console.print(render_message("petiole", exchange.answer or "(no answer)"))
    _check_exchange(exchange, line)
    return exchange


def _check_exchange(exchange: ChatExchange, line: ScriptLine) -> None:
    """Check an exchange's answer and events. Raises ClickException."""
    types = {recorded.topic for recorded in exchange.events}
    if exchange.answer is None:
        raise click.ClickException(
            f"no answer within {_ANSWER_TIMEOUT_S:g} s; {len(exchange.events)} events were published"
        )
    if line.expected not in exchange.answer:
        raise click.ClickException(f"the answer does not contain {line.expected!r}")
    if len(types) < _MIN_EVENT_TYPES:
        raise click.ClickException(f"only {len(types)} event types were published, fewer than {_MIN_EVENT_TYPES}")
    if exchange.events[0].topic != "input.message.received":
        raise click.ClickException(f"the first event is {exchange.events[0].topic} instead of the message")


def _print_summary(console: Console, workers: RunningWorkers, exchanges: Sequence[ChatExchange]) -> None:
    console.print()
    cells = [
        (
            number,
            exchange.message.correlation_id,
            len(exchange.events),
            len({event.topic for event in exchange.events}),
            _format_duration(exchange),
        )
        for number, exchange in enumerate(exchanges, start=1)
    ]
    headings = ("message", "correlation id", "events", "types", "answered after")
    console.print(render_table(headings, cells, numbers=("message", "events", "types", "answered after")))
    events = [recorded for exchange in exchanges for recorded in exchange.events]
    publishers = dict.fromkeys(publisher_name(recorded.attributes) for recorded in events)
    types = {recorded.topic for recorded in events}
    console.print(f"{len(events)} events of {len(types)} types, published by {', '.join(publishers)}")
    console.print(f"{_processes(workers.nodes)}\n")
    _print_next_steps(console, exchanges[0].message.stream_id)


def _format_duration(exchange: ChatExchange) -> str:
    return f"{recorded_at_ms(exchange.events[-1]) - recorded_at_ms(exchange.events[0])} ms"


def _processes(nodes: Sequence[str]) -> str:
    replies = default_bus.app.control.inspect(destination=list(nodes), timeout=1.0).stats() or {}
    workers = [f"{node} with {stats['pool']['max-concurrency']} slots" for node, stats in sorted(replies.items())]
    return f"handled by {', '.join(workers or nodes)}"


def _print_next_steps(console: Console, stream_id: str) -> None:
    console.print("Next commands", style="bold")
    commands = [
        (format_command("demo --console"), "see such a system in a browser, and break it"),
        (format_command("up"), "run broker, worker, beat and console; then, in another terminal:"),
        (format_command("chat"), "chat with the agents"),
        (format_command("tail"), "watch every event as it is published"),
        (format_command(f"trace {stream_id}"), "show this conversation again"),
    ]
    console.print(render_hints(commands))
    if is_installed():
        address = f"http://127.0.0.1:{CONSOLE_PORT}/conversation?id={stream_id}"
        console.print(
            f"This conversation in a browser, while '{format_command('up')}' runs:\n  {address}", soft_wrap=True
        )
    else:
        console.print("To see it in a browser: pip install 'petiole[console]'")


def _with_log(error: click.ClickException, log: Path | None) -> click.ClickException:
    lines = read_last_lines(log)
    return click.ClickException(f"{error.message}\nthe last lines of {log}:\n{lines}" if lines else error.message)


def _relative_path(path: Path) -> str:
    """Format a path relative to the current directory, if it is below it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
