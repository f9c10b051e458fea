"""Topology: the names and declarations of queues on each kind of broker.

Publishers and workers use the same declarations, so either may create a queue first. On Redis, a queue has one name,
and each message has a priority. On RabbitMQ, quorum queues have no priorities: urgent events go to a second queue,
`<queue>.urgent`, and every worker of a queue consumes both. Reasons: docs/decisions/0017-two-quorum-queues.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celery.app.amqp import AMQP, Queues
from kombu import Connection, Exchange, Queue

from petiole.events.event import MAX_PRIORITY
from petiole.tasks.runtime import bus_of, included_agents, joined
from petiole.tasks.stores.connections import split_master_name
from petiole.tasks.transport import with_transport_prefix
from petiole.tasks.transport.address import PREFIX, check_broker_address

if TYPE_CHECKING:
    from petiole.tasks.settings import Settings

RABBITMQ = "amqp"

PUBLISH_TASK = "petiole.publish"
PUBLISH_QUEUE = "publish"

VALIDATED_HEADER = "petiole_validated"
"""The header of a message to `publish` whose event its sender has validated, with a schema that may be newer."""

DUE_HEADER = "petiole_due"
"""The header of a message that was delayed: when it was due, in ISO 8601."""

# On Redis, these priorities share the first list of a queue.
_URGENT_MIN_PRIORITY = 7
_URGENT_SUFFIX = ".urgent"


def broker_queues(queue: str, driver: str) -> tuple[str, ...]:
    """Return the broker's queues for one of ours, the most urgent first."""
    if driver != RABBITMQ or queue.endswith(_URGENT_SUFFIX):
        return (queue,)
    return (queue + _URGENT_SUFFIX, queue)


def broker_queue(queue: str, priority: int, driver: str) -> str:
    """Return the broker's queue for an event of that priority (9 is first)."""
    return broker_queues(queue, driver)[0] if priority >= _URGENT_MIN_PRIORITY else queue


def broker_priority(priority: int, driver: str) -> int:
    """Convert our priority (9 is first) to the broker's: on Redis 0 is first."""
    return MAX_PRIORITY - priority if driver == "redis" else priority


def logical_queue(broker_queue_name: str) -> str:
    """Return our queue for one of the broker's."""
    return broker_queue_name.removesuffix(_URGENT_SUFFIX)


def queue_declaration(name: str, driver: str) -> Queue:
    """Build the declaration of one of the broker's queues."""
    if driver != RABBITMQ:
        return Queue(name, Exchange(name), name)
    # Publishers name the queue and need no exchange. Celery's delayed delivery needs one that is not direct.
    return Queue(name, Exchange(name, type="topic"), name, queue_arguments={"x-queue-type": "quorum"})


class EventQueues(Queues):
    """Celery's map of queue declarations, with those of a bus in addition to the app's own.

    In `-Q memory` and `-X memory`, the agent's name stands for all of its broker queues. Celery accepts other names:
    they are in `unknown`, with their option.
    """

    def __init__(
        self, queues: Sequence[Queue] | Mapping[str, Queue], *, names: Sequence[str], driver: str, **options: Any
    ) -> None:
        self.unknown: dict[str, str] = {}
        self._driver = driver
        self._names = set(names)
        own = {
            queue_name: queue_declaration(queue_name, driver)
            for name in names
            for queue_name in broker_queues(name, driver)
        }
        listed = queues if isinstance(queues, Mapping) else {queue.name: queue for queue in queues}
        super().__init__({**listed, **own}, **options)

    def select(self, include: Sequence[str] | str) -> None:
        """Consume from these queues only."""
        super().select(self._expand_names(include, "-Q"))

    def deselect(self, exclude: Sequence[str] | str) -> None:
        """Consume from all queues except these."""
        super().deselect(self._expand_names(exclude, "-X"))

    def _set_max_priority(self, args: dict[str, Any]) -> None:
        # For the setting task_queue_max_priority: RabbitMQ refuses a quorum queue with priorities.
        if args.get("x-queue-type") != "quorum":
            super()._set_max_priority(args)  # type: ignore[misc]  # the stubs leave it out

    def _expand_names(self, names: Sequence[str] | str, option: str) -> list[str]:
        listed = [names] if isinstance(names, str) else names or []
        self.unknown |= {name: option for name in listed if name not in self and name not in self._names}
        return [
            queue for name in listed for queue in (broker_queues(name, self._driver) if name in self._names else [name])
        ]


MAX_RECONNECT_DELAY_S = 2.0
"""How long a worker waits between two tries to connect. Celery would wait longer each time, up to 30 s."""


class EventConnection(Connection):
    """A connection that retries often, so that a worker is back soon after its broker."""

    def _ensure_connection(self, *args: Any, **options: Any) -> Any:
        options.setdefault("interval_max", MAX_RECONNECT_DELAY_S)
        return super()._ensure_connection(*args, **options)


_STOCK_OPTIONS = {
    # With kombu's defaults, the messages of a crashed worker are requeued about every 100 s.
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
    "socket_timeout": 10,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
}
"""Options for kombu's own transport for Redis. They are the defaults of ours (transport/leases.py)."""


class EventAMQP(AMQP):
    """Celery's AMQP with the queues of a bus in addition to the app's own, and our transport for Redis.

    The transport is chosen when a connection is created. So the app's settings stay unchanged, and the source of the
    URL (a setting, the environment or a caller) makes no difference.
    """

    def Connection(self, url: str | Sequence[str] | None = None, *args: Any, **options: Any) -> EventConnection:  # type: ignore[override]  # noqa: N802 - called only
        """Create a connection; for Redis it uses our transport."""
        settings = bus_of(self.app).settings
        address, master_name = split_master_name(check_broker_address(joined(url)))
        if settings.transport == "petiole":
            address = with_transport_prefix(address)
        own = _transport_options(address, settings) | ({"master_name": master_name} if master_name else {})
        options["transport_options"] = own | (options.get("transport_options") or {})
        hostname: Any = address or None  # the stubs do not allow None, kombu does
        return EventConnection(hostname, *args, **options)

    def queues_cls(self, queues: Any, **options: Any) -> EventQueues:  # type: ignore[override]  # called only
        """Create the map of queue declarations."""
        bus = bus_of(self.app)
        return EventQueues(queues, names=[PUBLISH_QUEUE, *included_agents(bus)], driver=bus.driver, **options)


def _transport_options(address: str, settings: Settings) -> dict[str, object]:
    if address.startswith(_AMQP_SCHEMES):
        # A message counts as sent when its queue has it on disk.
        return {"confirm_publish": True}
    if not with_transport_prefix(address).startswith(PREFIX):
        return {}
    options: dict[str, object] = {
        "visibility_timeout": settings.visibility_timeout_s,
        "global_keyprefix": settings.queue_prefix,
    }
    return options | (_STOCK_OPTIONS if settings.transport == "kombu" else {"state_prefix": settings.key_prefix})


_AMQP_SCHEMES = ("amqp://", "amqps://", "pyamqp://")
