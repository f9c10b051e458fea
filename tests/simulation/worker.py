"""A worker: a process with an event loop, slots that run handlers, and periodic jobs, each an actor.

Channel, takeover, jobs and tasks are the true ones. What is simulated is Celery between them, and the process: it may
die at any step, stop for a while, or lose its connection while its slots run.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from celery.concurrency.prefork import TaskPool as ProcessPool
from celery.exceptions import Reject
from kombu import Connection
from redis.exceptions import RedisError

from petiole.events.errors import BrokerUnavailable, StateStoreUnavailable
from petiole.tasks.consuming.consumer import LeaseTakeover
from petiole.tasks.consuming.direct import run_entry
from petiole.tasks.consuming.request import record_crash
from petiole.tasks.publishing.delayed import send_due
from petiole.tasks.stores.deliveries import QueueEntry
from petiole.tasks.transport.leases import HEARTBEAT_INTERVAL_S, renew_leases

if TYPE_CHECKING:
    from tests.simulation.world import World

SLOTS = 2
IDLE_S = 0.1
ERRORS = (RedisError, OSError)


class ChildDied(BaseException):
    """The child that ran a handler died; its worker lives."""


@dataclass(frozen=True, slots=True)
class Running:
    """What a slot runs: a message, or a delivery on the direct way."""

    task: str
    delivery: str
    tag: str
    consumer: str
    is_replay: bool

    @classmethod
    def of(cls, waiting: Any) -> Running:
        """Describe what waits for a slot."""
        if callable(waiting):
            request = waiting.__self__
            replay = QueueEntry.parse(request.parts.text).options.get("replay")
            return cls(request.name, request.id, request.delivery_tag, request.channel.consumer_id, replay is not None)
        headers = waiting.headers
        replay = headers.get("petiole_replay")
        return cls(
            headers["task"], headers["id"], waiting.delivery_tag, headers["petiole_consumer"], replay is not None
        )


class Jobs:
    """Takes the place of the jobs of a prefork pool: each delivery runs in a slot."""

    def __init__(self, consumer: Any) -> None:
        self.add = consumer.on_task_request


class Worker:
    """One process; its name is the id of its process. The children of a prefork pool are its slots, too."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.world = world
        self.turns = world.turns
        self.rng: random.Random = world.rng
        self.is_prefork = self.rng.random() < 0.5
        self.is_alive = True
        self.is_stopping = False
        self.running: dict[str | None, Running] = {}
        """What slots run, by actor."""
        self._waiting: deque[Any] = deque()
        self._timers: list[Callable[[], object]] = []
        self._is_cut = False
        self._prefetch = self.rng.choice([1, 2, 4, 16])
        # What the step of Celery's consumer reads.
        self.consumer: Any = SimpleNamespace(
            app=world.bus.app,
            controller=SimpleNamespace(time_limit=None, soft_time_limit=None, max_tasks_per_child=None),
            event_dispatcher=None,
            hostname=name,
            on_task_request=lambda request: request.execute_using_pool(self),
            pool=object.__new__(ProcessPool) if self.is_prefork else None,
            running_tags=self._running_tags,
            task_buckets={},
            task_consumer=None,
        )
        self._takeover = LeaseTakeover(self.consumer)
        self._actors = {f"{name} loop": self._loop, f"{name} jobs": self._jobs}
        self._actors |= {f"{name} slot {number}": self._slot for number in range(SLOTS)}

    def start(self) -> None:
        """Start all actors."""
        for name, act in self._actors.items():
            self.turns.start(name, act)

    @property
    def consumer_id(self) -> str:
        """The id under which it leases; empty before it has connected."""
        connected = self.consumer.task_consumer
        return str(connected.channel.consumer_id) if connected else ""

    def has(self, actor: str | None) -> bool:
        """Tell whether an actor is one of this process."""
        return actor in self._actors

    def die(self) -> None:
        """End all actors at their next step."""
        self.is_alive = False
        self.turns.kill(set(self._actors) & self.turns.actors)

    def pause(self, for_s: float) -> None:
        """Let the process do nothing for a while, as a stopped one or one whose machine swaps."""
        self.turns.pause(set(self._actors) & self.turns.actors, for_s)

    def cut(self) -> None:
        """Cut the connection of the event loop."""
        self._is_cut = True

    def apply_async(self, run: Callable[[], None], **_: object) -> None:
        """Run a request in a slot; DirectRequest calls this of its pool."""
        self._waiting.append(run)

    def call_later(self, _: float, act: Callable[[], object]) -> None:
        """Call something in the event loop, soon; the channel calls this."""
        self._timers.append(act)

    def _running_tags(self) -> set[str]:
        return {run.tag for run in self.running.values()}

    # The event loop

    def _loop(self) -> None:
        channel = self._connect()
        while not (self.is_stopping and self._close(channel)):
            self.turns.pass_on()
            try:
                self._step(channel)
            except ERRORS as error:
                self.world.note(f"connection lost: {error}")
                self._waiting.clear()
                with suppress(Exception):
                    channel.connection.client.collect()
                channel = self._connect()

    def _connect(self) -> Any:
        while True:
            options = {"clients": self.world.channel_clients, "state_prefix": self.world.keys.prefix}
            with suppress(*ERRORS):
                connection: Any = Connection("simulated://server", transport_options=options)
                channel = connection.channel()
                channel.connection.loop = self
                # It would give back what is unacknowledged when this process ends.
                channel.qos._on_collect.cancel()
                channel.basic_qos(0, self._prefetch, False)
                self.consumer.task_consumer = SimpleNamespace(channel=channel)
                self._takeover.start(self.consumer)
                for queue in self.world.queues:
                    channel.basic_consume(queue, False, self._waiting.append, queue)
                self._is_cut = False
                return channel
            self.turns.pass_on(0.3)

    def _step(self, channel: Any) -> None:
        timers, self._timers = self._timers, []
        for act in timers:
            act()
        if self._is_cut and self.world.injector.is_on:
            raise ConnectionError("cut")
        if channel.active_queues and channel.qos.can_consume() and not channel._in_poll:
            channel._brpop_start()
        channel.send_pending_acks()
        self.turns.pass_on()
        if channel._in_poll and channel.client.is_ready():
            with suppress(Empty):
                channel._brpop_read()
        else:
            self.turns.pass_on(IDLE_S)

    def _close(self, channel: Any) -> bool:
        """Consume no more; close once all slots are idle. Returns whether it was closed."""
        for queue in sorted(channel._consumers):
            with suppress(*ERRORS):
                channel.basic_cancel(queue)
        if self._waiting or self.running or f"{self.name} jobs" in self.turns.actors:
            return False
        with suppress(*ERRORS):
            channel.close()
        self.is_alive = False
        return True

    # The periodic jobs

    def _jobs(self) -> None:
        for number in itertools.count():
            self.turns.pass_on(HEARTBEAT_INTERVAL_S / 2)
            if self.is_stopping and not (self._waiting or self.running):
                return
            if self.consumer.task_consumer is None:
                continue
            with suppress(*ERRORS, BrokerUnavailable, StateStoreUnavailable):
                send_due(self.world.bus)
            if number % 2:
                with suppress(*ERRORS):
                    renew_leases(self.consumer.task_consumer.channel)

    # The slots

    def _slot(self) -> None:
        while self.is_alive:
            if not self._waiting:
                self.turns.pass_on(IDLE_S)
                continue
            waiting = self._waiting.popleft()
            self.running[self.turns.current] = Running.of(waiting)
            self.turns.pass_on()
            # Celery logs an acknowledgement that fails.
            with suppress(*ERRORS):
                self._run(waiting)
            del self.running[self.turns.current]

    def _run(self, waiting: Any) -> None:
        run = self.running[self.turns.current]
        try:
            if callable(waiting):
                request = waiting.__self__
                request.begin(1)
                request.finish(is_requeued=not request.revoked() and run_entry(request.task, request.parts))
            elif self._call(waiting):
                waiting.ack()
            else:
                waiting.reject(requeue=True)
        except ChildDied:
            self.world.losses[run.delivery] += 1
            if callable(waiting):
                waiting.__self__.crash()
            else:
                crashed: Any = SimpleNamespace(message=waiting, id=run.delivery, bus=self.world.bus)
                record_crash(crashed)
                waiting.reject(requeue=True)

    def _call(self, message: Any) -> bool:
        """Run the task of a message as Celery would; returns whether the message is to be acknowledged."""
        task: Any = self.world.bus.app.tasks[message.headers["task"]]
        arguments, *_ = message.payload
        shown = f"{message.headers['task']} of {str((arguments[0] or {}).get('event_id'))[:8]}"
        task.push_request(**message.headers, properties=message.properties, called_directly=False)
        try:
            outcome = task.run(*arguments)
        except Reject as said:
            rejected: Any = said  # the stubs leave out what it holds
            self.world.note(f"{shown}: rejected, {type(rejected.reason).__name__}")
            return not rejected.requeue
        except Exception as failure:  # noqa: BLE001 - what fails is acknowledged by Celery, whatever it raised
            self.world.note(f"{shown}: failed, {type(failure).__name__}: {failure}")
            return True
        finally:
            task.pop_request()
        self.world.note(f"{shown}: {outcome if isinstance(outcome, str) else 'published'}")
        return True
