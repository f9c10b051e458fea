"""The Celery app: Celery as everyone knows it, with the registry and the stores of the journey at hand."""

from __future__ import annotations

import logging
import types
from datetime import datetime
from functools import cached_property
from typing import Any, TypeVar

from celery import Celery, Task
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from petiole.events.errors import NotConfigured, SystemStopping
from petiole.events.registry import EventRegistry, registry
from petiole.tasks.routing.table import RoutingTable
from petiole.tasks.settings import Settings
from petiole.tasks.stores import Stores, open_stores
from petiole.tasks.stores.clock import Clock
from petiole.tasks.stores.publications import HeldKeys
from petiole.tasks.transport import plain
from petiole.tasks.transport.consumer_id import held_key, holders_key

ATask = TypeVar("ATask", bound=Task[..., Any])

LONG_WAIT_S = 60.0
REMEDY = "publish(event, delay=…) waits in the broker instead"

log = logging.getLogger(__name__)

_CLIENT: dict[str, Any] = {"decode_responses": True, "socket_timeout": 10, "socket_connect_timeout": 5}
_REDIS_SCHEMES = ("redis://", "rediss://", "unix://")


class EventApp(Celery):
    """A Celery app that events travel in. Nothing connects before it is used."""

    amqp_cls = "petiole.tasks.broker.topology:EventAMQP"

    def __init__(
        self,
        name: str,
        *,
        config_source: object = "celeryconfig",
        event_registry: EventRegistry = registry,
        settings: Settings | None = None,
        state: Redis | None = None,
        set_as_current: bool = True,
    ) -> None:
        super().__init__(name, config_source=config_source, set_as_current=set_as_current)
        self.event_registry = event_registry
        self.settings = settings or Settings()
        self.store_clock = Clock()
        self._state = state
        self._routing = RoutingTable([], version=-1)
        self._is_closed = False

    @cached_property
    def stores(self) -> Stores:
        """What is remembered. Raises NotConfigured where no Redis is known."""
        options = self.conf.broker_transport_options
        unacked = self.queue_prefix + str(options.get("unacked_key", "unacked"))
        index = self.queue_prefix + str(options.get("unacked_index_key", "unacked_index"))
        held = HeldKeys(unacked, index, held_key(options), holders_key(options))
        return open_stores(self._state or self._connect(), self.settings, held, self.store_clock)

    @cached_property
    def driver(self) -> str:
        """The kind of broker: redis, amqp, memory."""
        return str(self.connection_for_write().transport.driver_type)

    def adopt(self, base: type[ATask], **attributes: object) -> ATask:
        """Make a task of this app from a task class.

        Celery binds classes, not instances, to an app: each task gets a class of its own.
        """
        own = types.new_class(str(base.__qualname__), (base,), exec_body=lambda body: body.update(attributes))
        task: ATask = self.register_task(own())
        return task

    def send_task(self, name: str, *args: Any, **options: Any) -> Any:
        """Send a task, and warn where Celery will have it wait in a worker's memory."""
        wait_s = _wait_s(options.get("countdown"), options.get("eta"))
        if wait_s > LONG_WAIT_S:
            log.warning("task.waits_in_a_worker", extra={"task": name, "seconds": round(wait_s), "remedy": REMEDY})
        return super().send_task(name, *args, **options)

    def require_broker(self) -> None:
        """Raise NotConfigured unless a broker is known: Celery would silently try an AMQP server on this host."""
        if not self.conf.broker_url:
            raise NotConfigured("the broker", "set PETIOLE_BROKER_URL, or start the embedded one: petiole up")

    @cached_property
    def publishes_in_one_step(self) -> bool:
        """Tell whether the broker and the state store are the same Redis, so that one script reaches both.

        Raises NotConfigured where no broker is known.
        """
        self.require_broker()
        return self.driver == "redis" and self._state is None and self._state_url() == self._broker_as_a_store()

    @cached_property
    def queue_prefix(self) -> str:
        """What kombu puts before the names of its keys."""
        return str(self.conf.broker_transport_options.get("global_keyprefix", ""))

    def known_routing(self) -> RoutingTable:
        """Return the directory's subscriptions as this process knows them."""
        return self._routing if self._routing.version >= 0 else self.read_routing()

    def read_routing(self) -> RoutingTable:
        """Return the directory's subscriptions, read anew."""
        version, subscriptions = self.stores.directory.read()
        # Read after the version, which moves with it: a publisher that has the version knows this as well.
        self._is_closed = self.stores.lifecycle.is_closed()
        self._routing = RoutingTable(subscriptions, version)
        return self._routing

    def routing(self) -> RoutingTable:
        """Return the directory's subscriptions as of now."""
        known = self._routing.version == self.stores.directory.version()
        return self._routing if known else self.read_routing()

    def check_open(self, *, asks: bool = False) -> None:
        """Raise SystemStopping where the system was shut down, and nobody has started it since.

        Unless it `asks`, it goes by what this process knows: a shutdown moves the directory's version, which each
        publication in one step compares.
        """
        if asks or not self.publishes_in_one_step:
            self.routing()
        else:
            self.known_routing()
        if self._is_closed:
            self.read_routing()
        if self._is_closed:
            raise SystemStopping(self.settings.key_prefix)

    def connect_async(self) -> AsyncRedis:
        """Make a client of the state store for the asyncio loop that runs. Raises NotConfigured."""
        return AsyncRedis.from_url(self._checked_state_url(), **_CLIENT, retry=AsyncRetry(NoBackoff(), 0))

    def _connect(self) -> Redis:
        # Repeating is decided where it is known to be harmless.
        return Redis.from_url(self._checked_state_url(), **_CLIENT, retry=Retry(NoBackoff(), 0))

    def _checked_state_url(self) -> str:
        url = self._state_url()
        if not url.startswith(_REDIS_SCHEMES):
            raise NotConfigured(
                "the state store", "set PETIOLE_STATE_URL to a Redis or Valkey, such as redis://HOST:6379"
            )
        return url

    def _state_url(self) -> str:
        return self.settings.state_url or self._broker_as_a_store()

    def _broker_as_a_store(self) -> str:
        """Write the broker's URL as redis-py reads it."""
        url = plain(self.conf.broker_url or "")
        return url.replace("redis+socket:", "unix:").replace("virtual_host=", "db=")


def _wait_s(countdown: float | None, eta: datetime | str | None) -> float:
    if countdown is not None:
        return float(countdown)
    moment = datetime.fromisoformat(eta) if isinstance(eta, str) else eta
    if moment is None:
        return 0.0
    return (moment - datetime.now(moment.tzinfo)).total_seconds()


app = EventApp("petiole")
