"""Queues: what they are called and how they are declared, on each kind of broker.

Publishers and workers declare from here, so they agree, and whoever comes first makes the queue. On Redis a queue is
one name, and each message has its priority. On RabbitMQ a queue is a quorum queue, which knows no priorities: urgent
events have a lane of their own, `<queue>.urgent`, and every worker of a queue serves both.
docs/decisions/0017-two-quorum-queues.md says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from celery.app.amqp import AMQP, Queues
from kombu import Connection, Exchange, Queue

from petiole.events.event import MAX_PRIORITY
from petiole.tasks.runtime import bus_of, included_agents, joined
from petiole.tasks.settings import Settings
from petiole.tasks.transport import with_transport_prefix
from petiole.tasks.transport.address import PREFIX

RABBITMQ = "amqp"

PUBLISH_TASK = "petiole.publish"
PUBLISH_QUEUE = "publish"

# Also the priorities that share the first list of a queue on Redis.
_URGENT_MIN_PRIORITY = 7
_URGENT_SUFFIX = ".urgent"


def broker_queues(queue: str, driver: str) -> tuple[str, ...]:
    """Name the broker's queues that make up one of ours, the most urgent first."""
    if driver != RABBITMQ or queue.endswith(_URGENT_SUFFIX):
        return (queue,)
    return (queue + _URGENT_SUFFIX, queue)


def broker_queue(queue: str, priority: int, driver: str) -> str:
    """Name the broker's queue for an event of that priority (9 first)."""
    return broker_queues(queue, driver)[0] if priority >= _URGENT_MIN_PRIORITY else queue


def broker_priority(priority: int, driver: str) -> int:
    """Turn our priority (9 first) into the broker's: Redis takes 0 first."""
    return MAX_PRIORITY - priority if driver == "redis" else priority


def logical_queue(broker_queue_name: str) -> str:
    """Name our queue that one of the broker's belongs to."""
    return broker_queue_name.removesuffix(_URGENT_SUFFIX)


def queue_declaration(name: str, driver: str) -> Queue:
    """Say how one of the broker's queues is declared."""
    if driver != RABBITMQ:
        return Queue(name, Exchange(name), name)
    # Publishers need no exchange, they name the queue. Celery's delayed delivery does, and takes no direct one.
    return Queue(name, Exchange(name, type="topic"), name, queue_arguments={"x-queue-type": "quorum"})


class EventQueues(Queues):
    """Celery's map of declarations, with those of a bus beside the app's own.

    The name of an agent stands for all of its lanes: -Q memory, -X memory.
    """

    def __init__(
        self, queues: Sequence[Queue] | Mapping[str, Queue], *, names: Sequence[str], driver: str, **options: Any
    ) -> None:
        self._driver = driver
        self._names = set(names)
        own = {
            lane_name: queue_declaration(lane_name, driver)
            for name in names
            for lane_name in broker_queues(name, driver)
        }
        listed = queues if isinstance(queues, Mapping) else {queue.name: queue for queue in queues}
        super().__init__({**listed, **own}, **options)

    def select(self, include: Sequence[str] | str) -> None:
        """Consume from these only."""
        super().select(self._expand_names(include))

    def deselect(self, exclude: Sequence[str] | str) -> None:
        """Consume from all but these."""
        super().deselect(self._expand_names(exclude))

    def _set_max_priority(self, args: dict[str, Any]) -> None:
        # Of the setting task_queue_max_priority. RabbitMQ refuses a quorum queue that is declared with priorities.
        if args.get("x-queue-type") != "quorum":
            super()._set_max_priority(args)  # type: ignore[misc]  # the stubs leave it out

    def _expand_names(self, names: Sequence[str] | str) -> list[str]:
        listed = [names] if isinstance(names, str) else names or []
        return [
            each for name in listed for each in (broker_queues(name, self._driver) if name in self._names else [name])
        ]


MAX_RECONNECT_DELAY_S = 2.0
"""How long a worker waits between two tries to reach its broker. Celery waits longer each time, up to 30 s."""


class EventConnection(Connection):
    """A connection that is back soon after its broker, however long that was away."""

    def _ensure_connection(self, *args: Any, **options: Any) -> Any:
        options.setdefault("interval_max", MAX_RECONNECT_DELAY_S)
        return super()._ensure_connection(*args, **options)


_STOCK_OPTIONS = {
    # Kombu's own values look for a dead worker's messages about every 100 s.
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
    "socket_timeout": 10,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
}
"""Options of kombu's own transport for Redis. Ours has them as defaults (transport/leases.py)."""


class EventAMQP(AMQP):
    """Celery's, with the queues of a bus beside the app's own, and our transport for Redis.

    The transport is chosen where a connection is made, not in the app's settings: these stay as they are, and every
    connection has it, whether its URL comes from a setting, from the environment or from a caller.
    """

    def Connection(self, url: str | Sequence[str] | None = None, *args: Any, **options: Any) -> EventConnection:  # type: ignore[override]  # noqa: N802 - called only
        """Make a connection. To Redis it is by our transport."""
        settings = bus_of(self.app).settings
        address = joined(url)
        if settings.transport == "petiole":
            address = with_transport_prefix(address)
        options["transport_options"] = _transport_options(address, settings) | (options.get("transport_options") or {})
        hostname: Any = address or None  # which kombu takes, and the stubs do not
        return EventConnection(hostname, *args, **options)

    def queues_cls(self, queues: Any, **options: Any) -> EventQueues:  # type: ignore[override]  # called only
        """Make the map of declarations."""
        bus = bus_of(self.app)
        return EventQueues(queues, names=[PUBLISH_QUEUE, *included_agents(bus)], driver=bus.driver, **options)


def _transport_options(address: str, settings: Settings) -> dict[str, object]:
    if address.startswith(_AMQP_SCHEMES):
        # A message counts as sent when its queue has it on disk. Redis needs no telling.
        return {"confirm_publish": True}
    if not with_transport_prefix(address).startswith(PREFIX):
        return {}
    options: dict[str, object] = {"visibility_timeout": settings.visibility_timeout_s}
    return options | (_STOCK_OPTIONS if settings.transport == "kombu" else {})


_AMQP_SCHEMES = ("amqp://", "amqps://", "pyamqp://")
