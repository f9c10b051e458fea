"""Run everything in this terminal: broker, worker and beat."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import click
from celery.utils.imports import cwd_in_path
from rich.console import Console
from rich.text import Text

from petiole.events.event import Category
from petiole.events.subscriptions import Subscription
from petiole.tasks.bus import default_bus
from petiole.tasks.runtime import BusRuntime
from petiole.workers.cli._console import hints, open_console, plain
from petiole.workers.cli._options import as_typed
from petiole.workers.process import embedded_broker
from petiole.workers.process.child_processes import (
    Child,
    answering,
    await_worker,
    ended_like_ctrl_c,
    first_to_end,
    node_of,
    relay,
    start_beat,
    start_worker,
)
from petiole.workers.process.discovery import configured_agents

NAME = "petiole"
ERRORS = "petiole-errors"
_STYLES = {"worker": "cyan", "errors": "red", "beat": "magenta"}


@click.command
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=min(os.cpu_count() or 2, 4),
    show_default=True,
    help="How many deliveries the worker handles at once.",
)
def command(concurrency: int) -> None:
    """Run everything in this terminal: a broker, if none is configured, a worker with all agents, and beat.

    Agents that hear the error channel alone have a worker of their own, so that no other work holds errors up. Ctrl-C
    ends: the workers finish what they have in hand, then the broker is stopped if it was started here.
    """
    console = open_console()
    with ended_like_ctrl_c(), ExitStack() as started:
        try:
            _run(console, started, concurrency)
        except KeyboardInterrupt:
            console.print("\nstopping; what is in hand is finished first (Ctrl-C again: at once)", style="bold")
    console.print("all stopped", style="bold")


def _run(console: Console, started: ExitStack, concurrency: int) -> None:
    # Held first: who is refused must not have started a broker, and stop it again, under the one that runs.
    started.enter_context(_only_one())
    running = embedded_broker.use_embedded_broker(default_bus)
    if running and running.started:
        started.callback(embedded_broker.stop, embedded_broker.default_home())
    if running and not running.started:
        _refuse_beside_others(default_bus)
    show = _shown_by(console)
    watchers = ",".join(_watchers())
    apart = ["-X", watchers] if watchers else []
    worker = start_worker(NAME, concurrency=concurrency, output=subprocess.PIPE, options=apart)
    children = {NAME: _start(started, worker, show)}
    if watchers:
        alone = ["-Q", watchers, "--pool", "solo"]
        errors = start_worker(ERRORS, concurrency=1, output=subprocess.PIPE, label="errors", options=alone)
        children[ERRORS] = _start(started, errors, show)
    beat = _start(started, start_beat(output=subprocess.PIPE), show)
    for name, child in children.items():
        await_worker(default_bus, child, node_of(name))
    _greet(console, running)
    _watch((*children.values(), beat))


def _watchers() -> list[str]:
    """Name the agents that hear the error channel and nothing else."""
    # As the worker finds them: a module of the reader's lies where the command is typed.
    with cwd_in_path():
        agents = configured_agents()
    return [agent.name for agent in agents if agent.subscriptions and all(map(_hears_errors, agent.subscriptions))]


def _hears_errors(subscription: Subscription) -> bool:
    return all(pattern.partition(".")[0] == Category.ERROR for pattern in subscription.patterns)


@contextmanager
def _only_one() -> Iterator[None]:
    """Hold the directory's lock. Raises ClickException where another `up` holds it; it goes with its process."""
    home = embedded_broker.default_home()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (home / "up.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _already_runs(f"'{as_typed('up')}' runs here already") from error
        yield


def _refuse_beside_others(bus: BusRuntime) -> None:
    if nodes := answering(bus):
        raise _already_runs(f"workers run here already ({', '.join(nodes)})")


def _already_runs(what: str) -> click.ClickException:
    return click.ClickException(f"{what}; use what runs ({as_typed('chat')}), or stop it first ({as_typed('down')})")


def _start(started: ExitStack, child: Child, show: Callable[[str, str], None]) -> Child:
    """Show what a child writes, and have it stopped on the way out, before its last lines are waited for."""
    reader = relay(child, lambda line: show(child.name, line))
    started.callback(reader.join, 5.0)
    started.callback(child.stop)
    return child


def _shown_by(console: Console) -> Callable[[str, str], None]:
    def show(name: str, line: str) -> None:
        console.print(Text.assemble((f"{name:<6} | ", _STYLES[name]), plain(line)), soft_wrap=True)

    return show


def _greet(console: Console, running: embedded_broker.Running | None) -> None:
    where = "the embedded broker" if running else "the broker that is configured"
    console.print(f"\nup, on {where}. In another terminal:", style="bold")
    commands = [
        (as_typed("chat"), "talk to the agents"),
        (as_typed("tail"), "watch every event"),
        (as_typed("agents"), "see queues and workers"),
    ]
    console.print(hints(commands))
    console.print("Ctrl-C ends.\n", style="dim")


def _watch(children: Sequence[Child]) -> None:
    """Return once a child was stopped from elsewhere. Raises ClickException where one died."""
    ended = first_to_end(children)
    code = ended.process.returncode
    if code:
        raise click.ClickException(
            f"the {ended.name} died (exit code {code}), so all was stopped; its last lines are above"
        )
    click.echo(f"the {ended.name} was stopped from elsewhere, so the rest is stopped too")
