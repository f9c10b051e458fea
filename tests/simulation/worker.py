"""A worker: a process with an event loop, slots that run handlers, and periodic jobs, each an actor.

Channel, takeover, jobs and tasks are the true ones. What is simulated is Celery between them, and the process: it may
die at any step, stop for a while, or lose its connection while its slots run.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from celery.exceptions import Reject
from kombu import Connection
from redis.exceptions import RedisError

from petiole.events.errors import BrokerUnavailable, StateStoreUnavailable
from petiole.tasks.consuming.consumer import LeaseTakeover
from petiole.tasks.consuming.request import record_crash
from petiole.tasks.publishing.delayed import send_due
from petiole.tasks.transport.leases import expire_lost, renew_leases

if TYPE_CHECKING:
    from tests.simulation.world import World

SLOTS = 2
IDLE_S = 0.1
ERRORS = (RedisError, OSError)


class ChildDied(BaseException):
    """The child that ran a handler died; its worker lives."""


class Worker:
    """One process; its name is the id of its process."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.world = world
        self.turns = world.turns
        self.rng: random.Random = world.rng
        self.is_prefork = self.rng.random() < 0.5
        self.is_alive = True
        self.is_stopping = False
        self.running: dict[str, Any] = {}
        """The messages that slots run, by actor."""
        self._waiting: deque[Any] = deque()
        self._timers: list[Callable[[], object]] = []
        self._is_cut = False
        self._prefetch = self.rng.choice([1, 2, 4, 16])
        # What the step of Celery's consumer reads.
        self.consumer: Any = SimpleNamespace(running_tags=self._running_tags, task_consumer=None)
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

    def call_later(self, _: float, act: Callable[[], object]) -> None:
        """Call something in the event loop, soon; the channel calls this."""
        self._timers.append(act)

    def _running_tags(self) -> set[str]:
        return {message.delivery_tag for message in self.running.values()}

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
            options = {"clients": self.world.channel_clients, "connected": self.world.connected}
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
        channel.close()
        self.is_alive = False
        return True

    # The periodic jobs

    def _jobs(self) -> None:
        for number in itertools.count():
            self.turns.pass_on(0.5)
            if self.is_stopping and not (self._waiting or self.running):
                return
            if self.consumer.task_consumer is None:
                continue
            channel = self.consumer.task_consumer.channel
            jobs = [lambda: renew_leases(channel), lambda: send_due(self.world.bus)]
            if number % 2 == 0 and not self.is_stopping:
                jobs.append(lambda: expire_lost(channel))
            for job in jobs:
                with suppress(*ERRORS, BrokerUnavailable, StateStoreUnavailable):
                    job()

    # The slots

    def _slot(self) -> None:
        while self.is_alive:
            if not self._waiting:
                self.turns.pass_on(IDLE_S)
                continue
            message = self._waiting.popleft()
            with self._run(message) as is_done:
                # Celery logs an acknowledgement that fails.
                with suppress(*ERRORS):
                    message.ack() if is_done else message.reject(requeue=True)

    @contextmanager
    def _run(self, message: Any) -> Iterator[bool]:
        actor = str(self.turns.current)
        self.running[actor] = message
        self.turns.pass_on()
        try:
            is_done = self._call(message)
        except ChildDied:
            is_done = False
            with suppress(*ERRORS):
                self.world.losses[message.headers["id"]] += 1
                record_crash(self._request(message))
        yield is_done
        del self.running[actor]

    def _request(self, message: Any) -> Any:
        return SimpleNamespace(message=message, id=message.headers["id"], bus=self.world.bus, report=lambda *_: None)

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
        self.world.done[message.headers["id"]] += outcome == "handled"
        return True
