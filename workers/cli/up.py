"""Run broker, workers, beat and the console in this terminal."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import click
from celery.utils.imports import cwd_in_path
from rich.console import Console
from rich.text import Text

from petiole.events.event import Category
from petiole.events.subscriptions import Subscription
from petiole.tasks.bus import default_bus
from petiole.tasks.runtime import BusRuntime
from petiole.workers.cli._console import open_console, render_hints
from petiole.workers.cli._console_on_demand import ConsoleOnDemand
from petiole.workers.cli._options import format_command
from petiole.workers.console import is_installed
from petiole.workers.observability.printable import replace_unprintable
from petiole.workers.process import embedded_broker
from petiole.workers.process.child_processes import (
    SLOTS,
    ChildProcess,
    forward_output,
    list_responding_workers,
    node_name,
    signals_as_keyboard_interrupt,
    start_beat,
    start_worker,
    wait_for_first_exit,
    wait_for_worker,
)
from petiole.workers.process.discovery import configured_agents
from petiole.workers.process.watchdog import Watchdog

LOCK_FILE = "up.lock"
"""The file in the home that a running `up` locks; it has its process id."""

MAIN_WORKER = "petiole"
ERROR_WORKER = "petiole-errors"
_STYLES = {"worker": "cyan", "errors": "red", "beat": "magenta", "console": "green"}


@click.command
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=SLOTS,
    show_default=True,
    help="The number of deliveries that the worker handles at once.",
)
@click.option(
    "--console/--no-console", "has_console", default=True, help="Whether to serve the console, if it is installed."
)
def command(concurrency: int, *, has_console: bool) -> None:
    """Run a worker with all agents, beat and the console in this terminal; and the embedded broker if none is set up.

    Agents that subscribe to the error channel only get a worker of their own, so that no other work delays errors. On
    Ctrl-C running handlers finish; the broker stops if this command started it.
    """
    console = open_console()
    with signals_as_keyboard_interrupt(), ExitStack() as started:
        try:
            _run_all(console, started, concurrency, has_console=has_console and is_installed())
        except KeyboardInterrupt:
            console.print("\nstopping after the running handlers (Ctrl-C again: at once)", style="bold")
    console.print("all stopped", style="bold")


def _run_all(console: Console, started: ExitStack, concurrency: int, *, has_console: bool) -> None:
    try:
        # Locked first: a second `up` must not stop the broker that the first one uses.
        started.enter_context(embedded_broker.hold_process_lock(LOCK_FILE))
    except BlockingIOError as error:
        raise _already_running(f"'{format_command('up')}' is already running here") from error
    watchdog = Watchdog()
    watchdog.offer("broker", partial(embedded_broker.stop_broker, embedded_broker.default_home()))
    started.enter_context(watchdog)
    running = embedded_broker.use_embedded_broker(default_bus)
    if running and running.was_started:
        started.callback(embedded_broker.stop_broker, embedded_broker.default_home())
        watchdog.add("broker")
    if running and not running.was_started:
        _refuse_running_workers(default_bus)
    show = _line_printer(console)
    start = partial(_start_child, started, show)
    error_agents = ",".join(_error_channel_agents())
    excluded = ["-X", error_agents] if error_agents else []
    launch = partial(start_worker, output=subprocess.PIPE, watchdog=watchdog)
    worker = launch(MAIN_WORKER, concurrency=concurrency, options=excluded)
    children = {MAIN_WORKER: start(worker)}
    if error_agents:
        selected = ["-Q", error_agents]
        errors = launch(ERROR_WORKER, concurrency=1, label="errors", options=selected)
        children[ERROR_WORKER] = start(errors)
    beat = start(start_beat(output=subprocess.PIPE, watchdog=watchdog))
    for name, child in children.items():
        wait_for_worker(default_bus, child, node_name(name))
    web = _open_console(started, watchdog, partial(show, "console")) if has_console else None
    _print_hints(console, running, web)
    _wait_for_exit((*children.values(), beat))


def _open_console(started: ExitStack, watchdog: Watchdog, show: Callable[[str], None]) -> str:
    """Open the console's port and return its address."""
    on_demand = ConsoleOnDemand(watchdog, show)
    started.callback(on_demand.stop)
    return on_demand.address


def _error_channel_agents() -> list[str]:
    """Return the names of the agents that subscribe to the error channel only."""
    # A worker imports modules from the current directory too.
    with cwd_in_path():
        agents = configured_agents()
    return [
        agent.name for agent in agents if agent.subscriptions and all(map(_subscribes_to_errors, agent.subscriptions))
    ]


def _subscribes_to_errors(subscription: Subscription) -> bool:
    return all(pattern.partition(".")[0] == Category.ERROR for pattern in subscription.patterns)


def _refuse_running_workers(bus: BusRuntime) -> None:
    if nodes := list_responding_workers(bus):
        raise _already_running(f"workers are already running here ({', '.join(nodes)})")


def _already_running(reason: str) -> click.ClickException:
    return click.ClickException(
        f"{reason}; use it ({format_command('chat')}), or stop it first ({format_command('down')})"
    )


def _start_child(started: ExitStack, show: Callable[[str, str], None], child: ChildProcess) -> ChildProcess:
    """Show the output of a child. `started` stops the child, then waits for its last lines."""
    reader = forward_output(child, lambda line: show(child.name, line))
    started.callback(reader.join, 5.0)
    started.callback(child.stop)
    return child


def _line_printer(console: Console) -> Callable[[str, str], None]:
    def show(name: str, line: str) -> None:
        console.print(Text.assemble((f"{name:<7} | ", _STYLES[name]), replace_unprintable(line)), soft_wrap=True)

    return show


def _print_hints(console: Console, running: embedded_broker.RunningBroker | None, address: str | None) -> None:
    broker = "the embedded broker" if running else "the configured broker"
    console.print(f"\nup, on {broker}.", style="bold")
    if address:
        console.print(f"See it in a browser: {address}")
    console.print("In another terminal:")
    commands = [
        (format_command("chat"), "chat with the agents"),
        (format_command("tail"), "watch every event"),
        (format_command("agents"), "list queues and workers"),
    ]
    console.print(render_hints(commands))
    console.print("Ctrl-C ends.\n", style="dim")


def _wait_for_exit(children: Sequence[ChildProcess]) -> None:
    """Return when another process stops a child. Raises ClickException if a child fails."""
    ended = wait_for_first_exit(children)
    code = ended.process.returncode
    if code:
        raise click.ClickException(
            f"the {ended.name} failed (exit code {code}), so everything was stopped; its last lines are above"
        )
    click.echo(f"another process stopped the {ended.name}, so everything is stopped")
