"""BusRuntime: the state of one event bus in one process: Celery app, settings, registry, stores, subscriptions.

Every stage takes this object as its first argument. `EventBus` (bus.py) adds the methods that users call. A resource
is connected when it is first used. Two buses of one process share nothing.
"""

from __future__ import annotations

import importlib
import logging
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from celery import Celery, Task
from celery.utils.imports import cwd_in_path
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from petiole.events.errors import (
    BrokerUnavailable,
    NotConfigured,
    StateStoreUnavailable,
    SystemStopping,
    UsageError,
)
from petiole.events.redaction import Redactor
from petiole.events.registry import EventRegistry
from petiole.tasks.instrumentation import Instrumentation, Listener
from petiole.tasks.routing.table import RoutingTable
from petiole.tasks.stores import Stores, open_stores
from petiole.tasks.stores.clock import Clock
from petiole.tasks.stores.connection_pool import NoFreeConnection
from petiole.tasks.stores.connections import SCHEMES, SENTINEL_SCHEME, ServerRefused, open_client, split_master_name
from petiole.tasks.transport import without_transport_prefix
from petiole.tasks.transport.address import check_broker_address, check_state_address, redis_address
from petiole.tasks.trust.trust import Trust

if TYPE_CHECKING:
    from redis.asyncio import Redis as AsyncRedis

    from petiole.tasks.settings import Settings
    from petiole.tasks.stores.event_counts import EventCount

log = logging.getLogger(__name__)

TaskT = TypeVar("TaskT", bound="BusTask")
Resource = TypeVar("Resource")

_CLIENT: dict[str, Any] = {"decode_responses": True, "socket_timeout": 10, "socket_connect_timeout": 5}
_ATTRIBUTE = "event_bus"


class BusTask(Task[..., Any]):
    """A task of a bus. Delivery guarantees depend on these attributes, so no configuration may change them."""

    abstract = True
    bus: BusRuntime
    acks_late = True
    acks_on_failure_or_timeout = True
    acks_on_failure = True
    acks_on_timeout = True
    reject_on_worker_lost = True
    # Celery would send a new message to the app's default queue, without our headers.
    retry_on_worker_lost = False
    ignore_result = True
    store_errors_even_if_ignored = False
    track_started = False
    serializer = "json"


class BusRuntime:
    """The state of an event bus in this process. A resource is connected when it is first used."""

    default_publisher = "service"
    """Who publishes outside handlers, without PETIOLE_PUBLISHER."""

    def __init__(
        self,
        app: Celery,
        *,
        event_registry: EventRegistry,
        settings: Settings | None = None,
        state: Redis | None = None,
    ) -> None:
        self.app = app
        self._event_registry = event_registry
        self.instrumentation = Instrumentation(self._make_listeners)
        self.forking_pid: int | None = None
        """The process of a worker that forks its pool, and so must start no thread."""
        self.store_clock = Clock()
        self._given_settings = settings
        self._state = state
        self._routing = RoutingTable([], version=-1)
        self._is_closed = False
        self.has_compared_schemas = False
        self._resources: dict[object, object] = {}
        self._making = threading.RLock()
        setattr(app, _ATTRIBUTE, self)

    @cached_property
    def settings(self) -> Settings:
        """The settings of this bus, read from the environment when they are first used."""
        from petiole.tasks.settings import Settings

        return self._given_settings or Settings()

    @cached_property
    def event_registry(self) -> EventRegistry:
        """The event types, with those of PETIOLE_EVENT_TYPES. Raises UsageError (unknown_module)."""
        if names := self.settings.event_types:
            with cwd_in_path():  # as for PETIOLE_AGENTS: the modules may be in the current folder
                for name in names:
                    self._event_registry.load(name)
        return self._event_registry

    @cached_property
    def redactor(self) -> Redactor:
        """The hook of PETIOLE_REDACT. Raises UsageError if it cannot be loaded."""
        with cwd_in_path():  # as above
            return Redactor(self.settings.redact)

    @cached_property
    def trust(self) -> Trust:
        """The policy and the keys of this process. Raises UsageError (invalid_policy, invalid_signing_keys)."""
        return Trust.load(self.settings)

    @cached_property
    def stores(self) -> Stores:
        """The stores of this bus. Raises NotConfigured if no Redis is configured."""
        return open_stores(self.redis, self.settings, self.store_clock)

    @cached_property
    def redis(self) -> Redis:
        """The client of the state store. Raises NotConfigured."""
        return self._state or self._connect()

    def now(self) -> datetime:
        """Return the time by the clock of the state store; by this process's clock if there is no state store."""
        try:
            clock = self.stores.server_clock
        except NotConfigured:
            return datetime.now(UTC)
        return clock.now()

    def _make_listeners(self) -> list[Listener]:
        if not self.settings.counts_events:
            return []
        from petiole.tasks.instrumentation.event_counter import EventCounter

        return [EventCounter(self._add_event_counts, lambda: self.forking_pid)]

    def _add_event_counts(self, amounts: Mapping[EventCount, float]) -> None:
        self.stores.event_counts.add(amounts)

    def resource(self, make: Callable[[BusRuntime], Resource]) -> Resource:
        """Return the result of `make(bus)`, which is called once per bus and process."""
        with self._making:
            if make not in self._resources:
                self._resources[make] = make(self)
        return cast("Resource", self._resources[make])

    @cached_property
    def driver(self) -> str:
        """The kind of broker: `redis`, `amqp` or `memory`."""
        return str(self.app.connection_for_write().transport.driver_type)

    def register_task(self, base: type[TaskT], **attributes: object) -> TaskT:
        """Register a task with the Celery app; its `bus` and the given attributes are set on its class.

        Celery binds task classes to an app, so each task is a new subclass of `base`.
        """
        body = {"bus": self, **attributes}
        subclass = types.new_class(str(base.__qualname__), (base,), exec_body=lambda namespace: namespace.update(body))
        task: TaskT = self.app.register_task(subclass())
        return task

    def require_broker(self) -> None:
        """Raise NotConfigured if no broker is configured: Celery would silently try an AMQP server on this host."""
        if not self.broker_url:
            raise NotConfigured("the broker", "set PETIOLE_BROKER_URL, or start the embedded one: petiole up")

    @property
    def broker_url(self) -> str:
        """The broker's URL as kombu's own transports read it; empty if none is configured.

        Raises:
            UsageError: a setting is invalid.
            NotConfigured: the address cannot be used.
        """
        _ = self.settings  # raises what Celery drops while it configures the app, which then has no address
        with self._making:  # another thread may be loading the app's configuration
            url = self.app.conf.broker_write_url
        return without_transport_prefix(check_broker_address(joined(url)))

    def check_addresses(self) -> None:
        """Raise NotConfigured if there is no broker or no state store, or the address of one cannot be used."""
        self.require_broker()
        self._check_master_name("the broker", check_broker_address(joined(self.app.conf.broker_read_url)))
        if self._state is None:
            self._check_master_name("the state store", self._require_state_url())

    def _check_master_name(self, what: str, url: str) -> None:
        is_named = split_master_name(url)[1] or (self.app.conf.broker_transport_options or {}).get("master_name")
        if url.startswith(SENTINEL_SCHEME) and not is_named:
            remedy = "its address names no master: append ?master_name=NAME, the name that Sentinel monitors"
            raise NotConfigured(what, remedy)

    @cached_property
    def publishes_atomically(self) -> bool:
        """Whether broker and state store are the same Redis and our transport is used, so one script writes to both.

        Raises:
            NotConfigured: no broker is configured.
        """
        self.require_broker()
        is_own = self.driver == "redis" and self.settings.transport == "petiole"
        return is_own and self._state is None and self._state_url() == self._broker_store_url()

    @cached_property
    def queue_prefix(self) -> str:
        """The prefix of kombu's keys; the app's own transport option comes first."""
        return str(self.app.conf.broker_transport_options.get("global_keyprefix", self.settings.queue_prefix))

    def cached_routing(self) -> RoutingTable:
        """Return the routing table of this process, which may be older than the directory."""
        return self._routing if self._routing.version >= 0 else self.read_routing()

    def read_routing(self) -> RoutingTable:
        """Read from the directory what changed since the table was read, and whether the system accepts events.

        Subscriptions that the directory has lost are registered again: events are not sent to nobody until a worker
        notices.
        """
        known = self._routing
        changes = self.stores.directory.read_since(known.version)
        lost = [each for each in known.all() if each.name not in changes.subscriptions] if changes.is_complete else []
        if lost:
            self.stores.directory.restore(lost, known.version)
            log.warning("directory.restored", extra={"subscriptions": len(lost)})
            changes = self.stores.directory.read_since(-1)
        # Closing the system changes the directory's version. Read after the version, the flag is at least as new.
        self._is_closed = self.stores.cluster_membership.is_closed()
        base = RoutingTable([]) if changes.is_complete else known
        # A subscription that was written into the directory past the check of a worker's start gets nothing.
        subscriptions = {
            name: each if each is not None and self.trust.may_hear(each) else None
            for name, each in changes.subscriptions.items()
        }
        self._routing = base.updated(changes.version, subscriptions)
        return self._routing

    def routing(self) -> RoutingTable:
        """Return the current routing table; read from the directory if its version has changed."""
        is_current = self._routing.version == self.stores.directory.version()
        return self._routing if is_current else self.read_routing()

    def check_accepting(self, *, is_forced: bool = False) -> None:
        """Raise SystemStopping if the system was shut down and has not been started since.

        A shutdown changes the directory's version, which every atomic publish compares. So the cached state is enough
        for those; with `is_forced`, the current state is read.
        """
        if is_forced or not self.publishes_atomically:
            self.routing()
        else:
            self.cached_routing()
        if self._is_closed:
            self.read_routing()
        if self._is_closed:
            raise SystemStopping(self.settings.key_prefix)

    def connect_async(self) -> AsyncRedis:
        """Create a client of the state store for the running asyncio loop. Raises NotConfigured."""
        from petiole.tasks.stores.async_connections import open_async_client

        return self._open(open_async_client)

    @property
    def has_own_state_store(self) -> bool:
        """Whether the state store is another server than the broker."""
        return self._state_url() != self._broker_store_url()

    @property
    def state_store_name(self) -> str:
        """The name of the state store in error messages."""
        return "the state store" if self.has_own_state_store else "the broker"

    def outage(self, operation: str, error: Exception) -> BrokerUnavailable | StateStoreUnavailable:
        """Build the error for a state store that failed during an operation; it names the setting to check."""
        answer = str(error) if isinstance(error, ServerRefused) else ""
        remedy = f"{error}; raise PETIOLE_MAX_STATE_CONNECTIONS" if isinstance(error, NoFreeConnection) else ""
        unavailable = StateStoreUnavailable if self.has_own_state_store else BrokerUnavailable
        return unavailable(operation, answer, remedy)

    @contextmanager
    def state_store_access(self, operation: str) -> Iterator[None]:
        """Replace the errors of a state store that does not answer by `outage(operation, error)`."""
        try:
            yield
        except (RedisConnectionError, RedisTimeoutError) as error:
            raise self.outage(operation, error) from error

    def _connect(self) -> Redis:
        return self._open(partial(open_client, max_connections=self.settings.max_state_connections))

    def _open(self, open_: Callable[..., Resource]) -> Resource:
        url = self._require_state_url()
        try:
            return open_(url, self.app.conf.broker_transport_options, **_CLIENT)
        except ValueError as error:
            raise NotConfigured(
                "the state store", f"correct PETIOLE_STATE_URL, or the broker's address: {error}"
            ) from error

    def _require_state_url(self) -> str:
        url = self._state_url()
        is_one_server = ";" not in url or all(part.startswith(SENTINEL_SCHEME) for part in url.split(";"))
        if not url.startswith(SCHEMES) or not is_one_server:
            raise NotConfigured(
                "the state store",
                "set PETIOLE_STATE_URL to one Redis or Valkey, such as redis://HOST:6379, or to Sentinel: "
                "sentinel://HOST:26379;sentinel://HOST:26379/0?master_name=NAME",
            )
        return url

    def _state_url(self) -> str:
        own = self.settings.state_url
        return check_state_address(own) if own else self._broker_store_url()

    def _broker_store_url(self) -> str:
        """Return the broker's URL as redis-py reads it."""
        return redis_address(self.broker_url)


def joined(url: str | Sequence[str] | None) -> str:
    """Join a broker's addresses into one URL, as kombu reads it; Celery's setting may be a list."""
    return url if isinstance(url, str) else ";".join(url or ())


def bus_of(app: Celery) -> BusRuntime:
    """Return the bus of a Celery app. Raises UsageError if it has none."""
    bus = getattr(app, _ATTRIBUTE, None)
    if not isinstance(bus, BusRuntime):
        raise UsageError(f"the Celery app {app.main!r} has no event bus; create one: EventBus(app)")
    return bus


def included_agents(bus: BusRuntime) -> dict[str, Any]:
    """Return the agents (`Agent` of agents.py) that this process includes in a bus, by name."""
    return bus.resource(_no_agents)


def _no_agents(_: BusRuntime) -> dict[str, Any]:
    return {}


_default: list[BusRuntime] = []


def set_default_bus(bus: BusRuntime) -> None:
    """Set the bus of the module-level functions; bus.py calls it once."""
    _default[:] = [bus]


def default_bus() -> BusRuntime:
    """Return the bus of the module-level functions; bus.py makes it when it is first needed."""
    if not _default:
        importlib.import_module("petiole.tasks.bus")
    return _default[0]
