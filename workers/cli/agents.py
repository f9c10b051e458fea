"""List the agents: their queues, what waits there, who works; pause, stop and resume one."""

from __future__ import annotations

import difflib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import click

from petiole.tasks.broker.queue_stats import queue_depth
from petiole.tasks.broker.topology import PUBLISH_QUEUE, logical_queue
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.cluster_membership import AgentOverride, ServingState, Worker
from petiole.workers.cli._console import open_console, print_json, render_table
from petiole.workers.cli._options import connected_app, format_command, json_option

_INSPECT_TIMEOUT_S = 1.0
_APPLY_TIMEOUT_S = 15.0
_POLL_INTERVAL_S = 0.05


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue as of now. `agent` is None for the queue of publications, which any worker serves."""

    queue: str
    agent: str | None
    subscriptions: int
    waiting: int
    workers: tuple[str, ...]
    state: str | None = None


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, *, as_json: bool) -> None:
    """List the agents: their queues, how many subscriptions they have, how much waits, and which workers take it.

    The queue `publish` holds what services left for a worker to send on; it is no agent's.
    """
    if ctx.invoked_subcommand is not None:
        return
    states = _queue_states(connected_app())
    if as_json:
        print_json([asdict(each) for each in states])
        return
    console = open_console()
    cells = [
        (
            each.agent or "-",
            each.state or "-",
            each.queue,
            each.subscriptions,
            each.waiting,
            " ".join(each.workers) or "-",
        )
        for each in states
    ]
    headings = ("agent", "state", "queue", "subscriptions", "waiting", "workers")
    console.print(render_table(headings, cells, numbers=("subscriptions", "waiting")))
    if not any(each.workers for each in states):
        console.print(f"no worker answers; start one: {format_command('up')}")


@command.command
@click.argument("name")
def pause(name: str) -> None:
    """Let the agent NAME take no more events until it is resumed: in no worker, also in one that is started meanwhile.

    Its queue stays, and fills. What a worker has in hand of it is finished.
    """
    _mark_agent(name, "paused")


@command.command
@click.argument("name")
def stop(name: str) -> None:
    """As pause, and end the agent's life: `agent.stopped` is told once nothing of it is in hand."""
    _mark_agent(name, "stopped")


@command.command
@click.argument("name")
def resume(name: str) -> None:
    """Let the agent NAME take events again, in all workers that have it."""
    _mark_agent(name, None)


def _mark_agent(name: str, mark: AgentOverride | None) -> None:
    """Note what an agent is told, and wait until every worker has obeyed. Raises UsageError, ClickException."""
    bus = connected_app()
    lifecycle = bus.stores.cluster_membership
    _, subscriptions = bus.stores.directory.read()
    known = {*(each.queue for each in subscriptions), *lifecycle.overrides(), *lifecycle.agent_states()}
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        raise click.UsageError(f"no agent {name!r} is known{f'; did you mean {nearest[0]!r}?' if nearest else ''}")
    lifecycle.set_override(name, mark)
    deadline = time.monotonic() + _APPLY_TIMEOUT_S
    while unlike := [each.node for each in lifecycle.workers() if not _has_applied(each, name, mark)]:
        if time.monotonic() > deadline:
            raise click.ClickException(
                f"noted, but not yet obeyed by {', '.join(unlike)}; a worker obeys when its handlers let it"
            )
        time.sleep(_POLL_INTERVAL_S)
    open_console().print(f"{name} is {mark or 'resumed'}")


def _has_applied(worker: Worker, agent: str, mark: AgentOverride | None) -> bool:
    obeying: Mapping[AgentOverride | None, set[ServingState]] = {
        None: {"consuming"},
        "paused": {"paused", "draining"},
        "stopped": {"stopped"},
    }
    # Whoever does not have the agent has nothing to obey.
    return agent not in worker.agents or worker.agents[agent] in obeying[mark]


def _queue_states(bus: BusRuntime) -> list[QueueState]:
    _, subscriptions = bus.stores.directory.read()
    counts = Counter(each.queue for each in subscriptions)
    consumed = _consumers_by_queue(bus)
    lives = bus.stores.cluster_membership.agent_states() | bus.stores.cluster_membership.overrides()
    agents = sorted({*counts, *consumed, *lives} - {PUBLISH_QUEUE})
    with bus.app.connection_for_read() as connection:
        return [
            QueueState(
                queue=queue,
                agent=queue if queue in agents else None,
                subscriptions=counts[queue],
                waiting=queue_depth(bus, connection, queue),
                workers=tuple(consumed.get(queue, ())),
                state=lives.get(queue),
            )
            for queue in (*agents, PUBLISH_QUEUE)
        ]


def _consumers_by_queue(bus: BusRuntime) -> Mapping[str, Sequence[str]]:
    """Tell which workers take from each queue, of those that answer in time."""
    answers = bus.app.control.inspect(timeout=_INSPECT_TIMEOUT_S).active_queues() or {}
    consumed: dict[str, list[str]] = {}
    for node, queues in sorted(answers.items()):
        for queue in queues:
            nodes = consumed.setdefault(logical_queue(queue["name"]), [])
            if node not in nodes:
                nodes.append(node)
    return consumed
