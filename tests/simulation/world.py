"""The world of one seed: publishers and workers over one fake server, with a clock that jumps and calls that fail.

The stations and stores are the true ones: `publish`, `publish.delay`, the delivery's task, every store and every Lua
script. What is simulated is below and around them: server, broker, time, processes, and who is next.
"""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import time_machine
from celery.exceptions import Reject
from redis.exceptions import RedisError

from petiole.events import TextContent, TextMessageEvent
from petiole.events.errors import BrokerUnavailable, StateStoreUnavailable
from petiole.tasks import EventBus
from petiole.tasks.broker.topology import PUBLISH_TASK
from petiole.tasks.publishing.delayed import send_due
from tests.simulation.agents import AGENTS, FLAKY_SHARE, began, failed
from tests.simulation.broker import Message
from tests.simulation.injection import Injector, ProcessDied
from tests.simulation.machine import machine_of
from tests.simulation.turns import Turns

CALM_AFTER_STEPS = 1_500
MOST_STEPS = 20_000
PUBLISHERS, WORKERS = 2, 2

MOVERS: list[Callable[[EventBus], object]] = [send_due]
"""What a worker calls regularly beside its messages, such as the move of deliveries whose retry is due."""


class NeverAtRest(AssertionError):  # noqa: N818 - as asserts name what does not hold
    """The simulation did not come to its end."""


@dataclass
class Tally:
    """What happened in a run."""

    published: dict[str, TextMessageEvent] = field(default_factory=dict)
    """Acknowledged to their publishers, by id."""
    abandoned: dict[str, TextMessageEvent] = field(default_factory=dict)
    """Of publishers that died: whether they were published, nobody was told."""
    handled: int = 0
    redelivered: int = 0
    deaths: int = 0
    taken: Counter[str] = field(default_factory=Counter)
    """How often each delivery was taken from its queue."""


class World:
    """Everything of one seed."""

    def __init__(self, seed: int, clock: time_machine.Traveller) -> None:
        self.seed = seed
        self.trace: list[str] = []
        self.tally = Tally()
        self.rng = random.Random(seed)
        self.is_one_step = self.rng.random() < 0.75
        self.lost_holds = self.rng.choice([0.0, 0.01])
        """How often a message is given back whose worker still works."""
        self._clock = clock
        self._turns = Turns(self.rng)
        self._steps = 0
        self._publishing = PUBLISHERS
        self.injector = Injector(self.rng, self._turns, self._note)
        machine = machine_of(is_one_step=self.is_one_step)
        self.bus, self.client, self.broker = machine.bus, machine.client, machine.broker
        machine.begin(self.rng, self.injector)

    def run(self) -> None:
        """Publish, deliver and fail until all is at rest. Raises NeverAtRest."""
        began.clear()
        failed.clear()
        self.bus.stores.directory.register(each for agent in AGENTS for each in agent.subscriptions)
        publishers = {f"publisher-{number}": partial(self._publish, number) for number in range(PUBLISHERS)}
        workers = {f"worker-{number}": self._work for number in range(WORKERS)}
        self._turns.run({**publishers, **workers})

    # Publishers

    def _publish(self, number: int) -> None:
        """Publish some events, each until it is acknowledged, unless the process dies."""
        for place in range(self.rng.randint(1, 2)):
            event = self._an_event(number, place)
            try:
                self._publish_until_acknowledged(event)
            except ProcessDied:
                self.tally.abandoned[event.event_id] = event
                self.tally.deaths += 1
            else:
                self.tally.published[event.event_id] = event
        self._publishing -= 1

    def _publish_until_acknowledged(self, event: TextMessageEvent) -> None:
        publish: Any = self.bus.app.tasks[PUBLISH_TASK]
        call = self.rng.choice([publish.run, publish.delay])
        while True:
            self._note(f"publish {event.event_id[:8]} by {call.__name__}")
            try:
                call(event)
            except (BrokerUnavailable, StateStoreUnavailable) as error:
                self._note(f"publish {event.event_id[:8]}: {type(error).__name__}")
            else:
                return

    def _an_event(self, publisher: int, place: int) -> TextMessageEvent:
        told = [function for function in ("judge", "tell") if self.rng.random() < 0.2]
        flaky = ["flaky"] if self.rng.random() < FLAKY_SHARE else []
        text = " ".join([f"{publisher}.{place}", *(f"fail {function}" for function in told), *flaky])
        event_id = str(uuid.UUID(int=self.rng.getrandbits(128), version=4))
        return TextMessageEvent(
            event_id=event_id, stream_id=f"stream-{self.rng.randint(0, 1)}", content=TextContent(text=text)
        )

    # Workers

    def _work(self) -> None:
        """Handle messages until all is at rest; a worker that dies is replaced."""
        while not self._is_at_rest():
            self._turns.pass_on()
            self._pass_time()
            message = self.broker.take()
            if message is None:
                self._idle()
                continue
            try:
                self._handle(message)
            except ProcessDied:
                self.tally.deaths += 1
                self.broker.give_back(message)

    def _handle(self, message: Message) -> None:
        self._note(f"{message.shown}: taken")
        self.tally.taken[str(message.headers["id"])] += 1
        self.injector.dies("before the handler")
        is_done = self._run(message)
        self.injector.dies("before the acknowledgement")
        if not is_done:
            self.tally.redelivered += 1
            self.broker.give_back(message)
            return
        self.tally.handled += 1
        try:
            self.broker.acknowledge(message)
        except RedisError:
            # Whoever holds a message whose acknowledgement was lost, has lost it as well.
            self.broker.give_back(message)

    def _run(self, message: Message) -> bool:
        """Run the task of a message as Celery would; returns whether the message is to be acknowledged."""
        task: Any = self.bus.app.tasks[message.headers["task"]]
        task.push_request(**message.headers, properties=message.properties, called_directly=False)
        try:
            outcome = task.run(*message.arguments)
        except Reject as said:
            rejected: Any = said  # the stubs leave out what it holds
            self._note(f"{message.shown}: rejected, {type(rejected.reason).__name__}")
            return not rejected.requeue
        except Exception as failure:  # noqa: BLE001 - what fails is acknowledged by Celery, whatever it raised
            self._note(f"{message.shown}: failed, {type(failure).__name__}")
            return True
        finally:
            task.pop_request()
        self._note(f"{message.shown}: {outcome if isinstance(outcome, str) else 'published'}")
        return True

    def _is_at_rest(self) -> bool:
        if self._steps > MOST_STEPS:
            raise NeverAtRest(f"seed {self.seed}: not at rest after {MOST_STEPS} steps")
        room = f"{self.bus.settings.key_prefix}:delayed"
        return self._publishing == 0 and self.broker.is_empty() and not self.client.zcard(room)

    def _idle(self) -> None:
        for move in MOVERS:
            # What fails is tried again at the next round, see tasks/consuming/maintenance.py.
            with suppress(RedisError, BrokerUnavailable, StateStoreUnavailable, ProcessDied):
                move(self.bus)
        if self._publishing == 0:
            self._clock.shift(timedelta(seconds=1))

    # Time

    def _pass_time(self) -> None:
        self._steps += 1
        if self._steps == CALM_AFTER_STEPS:
            self.injector.is_on = False
        self._clock.shift(timedelta(milliseconds=self.rng.randint(0, 50)))
        if self.injector.is_on and self.rng.random() < self.lost_holds and (lost := self.broker.lose_a_hold()):
            self._note(f"{lost.shown}: its hold is lost, and it waits again")

    def _note(self, what: str) -> None:
        self.trace.append(f"{len(self.trace):5}  {self._turns.current or '-':12} {what}")
