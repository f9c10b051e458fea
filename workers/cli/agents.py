"""List the agents with their queues and workers; pause, stop and resume an agent."""

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
from petiole.tasks.stores.cluster_lifecycle import AgentOverride, Cluster, ServingState, Worker
from petiole.workers.cli._console import open_console, print_json, render_table
from petiole.workers.cli._handlers import describe_without_handler, find_without_handler
from petiole.workers.cli._options import (
    acting,
    connected_app,
    format_command,
    json_option,
    operator_option,
    reason_option,
)

_INSPECT_TIMEOUT_S = 1.0
_APPLY_TIMEOUT_S = 15.0
_POLL_INTERVAL_S = 0.05
_OVERRIDES: Mapping[str, AgentOverride | None] = {"pause": "paused", "stop": "stopped", "resume": None}


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue's current state. `agent` is None for the queue `publish`, which belongs to no agent.

    `parked` deliveries wait for a newer or an older worker; `without_handler` are the subscriptions whose handlers no
    running worker has.
    """

    queue: str
    agent: str | None
    subscriptions: int
    waiting: int
    workers: tuple[str, ...]
    state: str | None = None
    parked: int = 0
    without_handler: tuple[str, ...] = ()


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, *, as_json: bool) -> None:
    """List the agents: their queues, subscriptions, waiting messages and workers.

    The queue `publish` holds events that a worker has yet to publish. It belongs to no agent.
    """
    if ctx.invoked_subcommand is not None:
        return
    states = _queue_states(connected_app())
    if as_json:
        print_json([asdict(state) for state in states])
        return
    console = open_console()
    cells = [
        (
            state.agent or "-",
            state.state or "-",
            state.queue,
            state.subscriptions,
            state.waiting,
            state.parked,
            " ".join(state.workers) or "-",
        )
        for state in states
    ]
    headings = ("agent", "state", "queue", "subscriptions", "waiting", "parked", "workers")
    console.print(render_table(headings, cells, numbers=("subscriptions", "waiting", "parked")))
    for name in sorted(name for state in states for name in state.without_handler):
        console.print(describe_without_handler(name))
    if not any(state.workers for state in states):
        console.print(f"no worker replies; start one: {format_command('up')}")


@command.command
@click.argument("name")
@operator_option
@reason_option
def pause(name: str, operator: str | None, reason: str) -> None:
    """Pause the agent NAME in all workers, also in workers that start later, until it is resumed.

    Its queue continues to fill. Running handlers finish.
    """
    _mark_agent(name, "pause", operator, reason)


@command.command
@click.argument("name")
@operator_option
@reason_option
def stop(name: str, operator: str | None, reason: str) -> None:
    """Stop the agent NAME: as pause, and publish `agent.stopped` once its running handlers have finished."""
    _mark_agent(name, "stop", operator, reason)


@command.command
@click.argument("name")
@operator_option
@reason_option
def resume(name: str, operator: str | None, reason: str) -> None:
    """Resume the agent NAME in all workers."""
    _mark_agent(name, "resume", operator, reason)


def _mark_agent(name: str, action: str, operator: str | None, reason: str) -> None:
    """Store an agent's override, and wait until every worker has applied it. Raises UsageError, ClickException."""
    bus, mark = connected_app(), _OVERRIDES[action]
    membership = bus.stores.cluster_membership
    _, subscriptions = bus.stores.directory.read()
    known = {*(subscription.queue for subscription in subscriptions), *_agent_states(membership.read())}
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        raise click.UsageError(f"unknown agent {name!r}{f'; did you mean {nearest[0]!r}?' if nearest else ''}")
    with acting(bus, f"agent.{action}", name, operator=operator, reason=reason):
        membership.set_override(name, mark)
    deadline = time.monotonic() + _APPLY_TIMEOUT_S
    while pending := _pending_nodes(membership.read(), name, mark):
        if time.monotonic() > deadline:
            raise click.ClickException(
                f"stored, but not yet applied by {', '.join(pending)}; a worker applies it when its handlers return"
            )
        time.sleep(_POLL_INTERVAL_S)
    open_console().print(f"{name} is {mark or 'resumed'}")


def _pending_nodes(cluster: Cluster, agent: str, mark: AgentOverride | None) -> list[str]:
    return sorted(worker.node for worker in cluster.workers.values() if not _has_applied(worker, agent, mark))


def _has_applied(worker: Worker, agent: str, mark: AgentOverride | None) -> bool:
    applied_states: Mapping[AgentOverride | None, set[ServingState]] = {
        None: {"consuming"},
        "paused": {"paused", "draining"},
        "stopped": {"stopped"},
    }
    # A worker without the agent has nothing to apply.
    return agent not in worker.agents or worker.agents[agent] in applied_states[mark]


def _agent_states(cluster: Cluster) -> dict[str, str]:
    return {name: lifecycle.state for name, lifecycle in cluster.agents.items()} | dict(cluster.overrides)


def _queue_states(bus: BusRuntime) -> list[QueueState]:
    _, subscriptions = bus.stores.directory.read()
    counts = Counter(subscription.queue for subscription in subscriptions)
    consumed = _consumers_by_queue(bus)
    without_handler = find_without_handler(bus, subscriptions)
    parked: Counter[str] = Counter()
    for each in bus.stores.parked.read():
        parked[each.need.queue] += each.count
    states = _agent_states(bus.stores.cluster_membership.read())
    agents = sorted({*counts, *consumed, *states} - {PUBLISH_QUEUE})
    with bus.app.connection_for_read() as connection:
        return [
            QueueState(
                queue=queue,
                agent=queue if queue in agents else None,
                subscriptions=counts[queue],
                waiting=queue_depth(bus, connection, queue),
                workers=tuple(consumed.get(queue, ())),
                state=states.get(queue),
                parked=parked[queue],
                without_handler=tuple(sorted(name for name in without_handler if name.startswith(f"{queue}."))),
            )
            for queue in (*agents, PUBLISH_QUEUE)
        ]


def _consumers_by_queue(bus: BusRuntime) -> Mapping[str, Sequence[str]]:
    """Map each queue to the workers that consume it. Workers that do not reply in time are missing."""
    replies = bus.app.control.inspect(timeout=_INSPECT_TIMEOUT_S).active_queues() or {}
    consumed: dict[str, list[str]] = {}
    for node, queues in sorted(replies.items()):
        for queue in queues:
            nodes = consumed.setdefault(logical_queue(queue["name"]), [])
            if node not in nodes:
                nodes.append(node)
    return consumed
