"""List the agents: their queues, what waits there, and who works."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click
from kombu import Connection, Queue

from tasks.celery import EventApp
from tasks.queues import PUBLISH_QUEUE, lanes, queue_of
from workers.cli._options import as_json, as_typed, connected_app
from workers.console import open_console, print_json, table

_INSPECT_S = 1.0


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue as of now. `agent` is None for the queue of publications, which any worker serves."""

    queue: str
    agent: str | None
    subscriptions: int
    waiting: int
    workers: tuple[str, ...]


@click.command
@as_json
def command(*, as_json: bool) -> None:
    """List the agents: their queues, how many subscriptions they have, how much waits, and which workers take it.

    The queue `publish` holds what services left for a worker to send on; it is no agent's.
    """
    states = _states(connected_app())
    if as_json:
        print_json([asdict(each) for each in states])
        return
    console = open_console()
    cells = [
        (each.agent or "-", each.queue, each.subscriptions, each.waiting, " ".join(each.workers) or "-")
        for each in states
    ]
    headings = ("agent", "queue", "subscriptions", "waiting", "workers")
    console.print(table(headings, cells, numbers=("subscriptions", "waiting")))
    if not any(each.workers for each in states):
        console.print(f"no worker answers; start one: {as_typed('up')}")


def _states(app: EventApp) -> list[QueueState]:
    _, subscriptions = app.stores.directory.read()
    counts = Counter(each.queue for each in subscriptions)
    consumed = _consumed(app)
    agents = sorted({*counts, *consumed} - {PUBLISH_QUEUE})
    with app.connection_for_read() as connection:
        return [
            QueueState(
                queue=queue,
                agent=queue if queue in agents else None,
                subscriptions=counts[queue],
                waiting=sum(_waiting(connection, lane) for lane in lanes(queue, app.driver)),
                workers=tuple(consumed.get(queue, ())),
            )
            for queue in (*agents, PUBLISH_QUEUE)
        ]


def _consumed(app: EventApp) -> Mapping[str, Sequence[str]]:
    """Tell which workers take from each queue, of those that answer in time."""
    answers = app.control.inspect(timeout=_INSPECT_S).active_queues() or {}
    consumed: dict[str, list[str]] = {}
    for node, queues in sorted(answers.items()):
        for queue in queues:
            nodes = consumed.setdefault(queue_of(queue["name"]), [])
            if node not in nodes:
                nodes.append(node)
    return consumed


def _waiting(connection: Connection, queue: str) -> int:
    """Count what waits in a queue; what workers hold in advance is not in it."""
    # Asked passively, on a channel of its own: a queue that is not there yet is not made, and on AMQP ends the channel.
    with connection.channel() as channel:
        try:
            declared: Any = Queue(queue).queue_declare(passive=True, channel=channel)
            return int(declared.message_count)
        except connection.channel_errors:
            return 0
