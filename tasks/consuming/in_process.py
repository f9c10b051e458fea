"""The in-memory bus: Celery's memory transport, an in-process store, and a Celery worker in a thread.

`EventBus()` without a broker uses it (tasks/bus.py).
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import fakeredis
from celery import Celery
from celery._state import _set_task_join_will_block  # type: ignore[attr-defined]  # the stubs leave it out
from celery.worker import WorkController
from celery.worker.consumer.consumer import Consumer as CeleryConsumer
from kombu.pools import connections, producers
from kombu.transport import _transport_cache, memory, virtual  # type: ignore[attr-defined]  # the stubs leave it out
from redis.asyncio import Redis as AsyncRedis

from petiole.tasks.consuming.consumer import Consumer
from petiole.tasks.consuming.maintenance import SEND_DUE, PeriodicJobs
from petiole.tasks.runtime import BusRuntime, included_agents
from petiole.tasks.transport.message import Message

POLL_S = 0.005
START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 10.0

_SCRIPT_CACHE: dict[bytes, bytes] = {}
"""The scripts of all in-memory stores, by their hash: each bus would send the same ones again."""


class InFlightMessages:
    """Counts the messages that were sent and are not yet settled. A test harness overrides the other two methods."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._unsettled = 0
        self.settled = 0
        """How many messages were settled so far."""

    def messages_to_put(self, queue: str, message: Any) -> Iterable[Any]:  # noqa: ARG002 - for overrides
        """Return the messages that a queue gets for one that was sent."""
        return (message,)

    def loses_acknowledgement(self, message: Any) -> bool:  # noqa: ARG002 - as above
        """Return whether an acknowledgement is lost, so that the message is delivered again."""
        return False

    def count(self, change: int) -> None:
        """Count a message that was sent (1) or settled (-1)."""
        with self._changed:
            self._unsettled += change
            if change < 0:
                self.settled -= change
                self._changed.notify_all()

    def is_idle(self) -> bool:
        """Return whether all messages are settled."""
        return self._unsettled == 0

    def wait_for_settled(self, settled: int, timeout_s: float) -> None:
        """Wait until more than `settled` messages are settled, or until the timeout."""
        with self._changed:
            self._changed.wait_for(lambda: self.settled > settled, timeout_s)


def private_transport(traffic: InFlightMessages) -> type[memory.Transport]:
    """Make a separate memory transport. Kombu's keeps its queues in class attributes, which all apps share."""

    class PrivateChannel(memory.Channel):
        Message = Message
        queues: dict[str, Any] = {}  # noqa: RUF012 - shared by the channels of this one transport, as in kombu
        events: defaultdict[str, set[Any]] = defaultdict(set)  # noqa: RUF012 - as above

        def _put(self, queue: str, message: Any, **options: Any) -> None:
            for each in traffic.messages_to_put(queue, message):
                traffic.count(1)
                super()._put(queue, each, **options)

        def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's
            if traffic.loses_acknowledgement(self.qos.get(delivery_tag)):
                self.basic_reject(delivery_tag, requeue=True)
                return
            super().basic_ack(delivery_tag, multiple)
            traffic.count(-1)

        def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's
            super().basic_reject(delivery_tag, requeue)
            traffic.count(-1)

        def close(self) -> None:
            # Kombu's deletes all queues when any channel closes, but the worker's queues outlive a publisher's channel.
            virtual.Channel.close(self)

    class PrivateTransport(memory.Transport):
        Channel = PrivateChannel
        global_state = virtual.BrokerState()

    return PrivateTransport


def _forget(transport: type[memory.Transport]) -> None:
    """Remove a transport from kombu's caches, which would keep it and its bus as long as the process runs."""
    for pools in (connections, producers):
        for key in [key for key in pools if transport in key]:
            dict.pop(pools, key)
    _transport_cache.pop(transport, None)


class InProcess:
    """The broker, the state store and the worker of a bus without servers."""

    def __init__(self, traffic: InFlightMessages | None = None) -> None:
        self._server = fakeredis.FakeServer()
        self._server.script_cache = _SCRIPT_CACHE
        # Created now: of two threads that use it first at the same time, each would get a database of its own.
        self._server.dbs[0]
        self._worker: _Worker | None = None
        self.state = fakeredis.FakeRedis(server=self._server, decode_responses=True)
        self.traffic = traffic or InFlightMessages()
        self._transport = private_transport(self.traffic)

    @property
    def is_running(self) -> bool:
        """Whether the worker was started."""
        return self._worker is not None

    def connect_async(self) -> AsyncRedis:
        """Make a client of the state store for the running event loop."""
        return fakeredis.FakeAsyncRedis(server=self._server, decode_responses=True)

    def configure(self, conf: Any) -> None:
        """Configure the app's broker, result backend and consumer."""
        conf.update(
            broker_url="memory://",
            broker_read_url="memory://",
            broker_write_url="memory://",
            broker_transport=self._transport,
            broker_transport_options={"polling_interval": POLL_S},
            result_backend="cache+memory://",
            task_default_queue="publish",
            worker_consumer=f"{__name__}:InProcessConsumer",
            worker_hijack_root_logger=False,
            timezone="UTC",
        )
        # A start looks up 500 settings, and Celery tries three names of each in three mappings.
        conf.changes.update({key: value for mapping in reversed(conf.maps) for key, value in mapping.items()})

    def start(self, bus: BusRuntime) -> None:
        """Start the worker and wait until it consumes. Safe to repeat. Raises TimeoutError after 10 s, UsageError."""
        if self._worker is None:
            agents = included_agents(bus).values()
            bus.trust.check_worker([each for agent in agents for each in agent.subscriptions])
            self._worker = _Worker(bus.app)
            self._worker.start()

    def stop(self) -> None:
        """Stop the worker after the current delivery. Safe to repeat. Raises TimeoutError if it takes over 10 s."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
        _forget(self._transport)


class InProcessConsumer(Consumer):
    """The worker's consumer. Its only periodic job sends delayed messages; the others serve several processes."""

    class Blueprint(CeleryConsumer.Blueprint):  # type: ignore[valid-type,misc]  # the stubs leave it out
        """Celery's steps and Petiole's."""

        default_steps = (
            *CeleryConsumer.Blueprint.default_steps,
            f"{__name__}:DelayedMessagesJob",
            "petiole.tasks.consuming.announcement:SubscriptionRegistration",
        )


class DelayedMessagesJob(PeriodicJobs):
    """Send delayed messages that are due. The store is in this process, so looking often is cheap."""

    jobs = (replace(SEND_DUE, interval_s=0.1),)


class _Worker:
    """A worker with one slot, in a thread of this process."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._hostname = f"in-process@{id(self)}"
        self._is_ready = threading.Event()
        self._worker = _Controller(
            self._is_ready,
            app=app,
            hostname=self._hostname,
            pool_cls="solo",
            concurrency=1,
            loglevel="WARNING",
            without_heartbeat=True,
            without_mingle=True,
            without_gossip=True,
        )
        self._thread = threading.Thread(target=self._work, name="petiole-in-process", daemon=True)

    def start(self) -> None:
        """Start the thread and wait until the worker consumes. Raises TimeoutError."""
        self._thread.start()
        if not self._is_ready.wait(START_TIMEOUT_S):
            raise TimeoutError(f"the embedded worker did not start within {START_TIMEOUT_S} s")
        # A worker's start makes waiting for results an error in the whole process, and callers wait in this process.
        _set_task_join_will_block(False)  # noqa: FBT003 - Celery's signature

    def stop(self) -> None:
        """Stop after the current delivery. Raises TimeoutError if the handler does not return."""
        # By remote control, because Celery's stop flags are global and would stop the workers of other buses.
        self._app.control.shutdown(destination=[self._hostname])
        self._thread.join(STOP_TIMEOUT_S)
        if self._thread.is_alive():
            raise TimeoutError(f"the embedded worker did not stop within {STOP_TIMEOUT_S} s; is a handler blocked?")

    def _work(self) -> None:
        # The solo pool runs tasks in this thread, and they find their app by the thread's current app.
        self._app.set_current()
        self._worker.start()


class _Controller(WorkController):
    def __init__(self, is_ready: threading.Event, **options: Any) -> None:
        self._is_ready = is_ready
        super().__init__(**options)

    def on_consumer_ready(self, consumer: object) -> None:  # noqa: ARG002 - Celery's signature
        self._is_ready.set()
