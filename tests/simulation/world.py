"""The world of one seed: publishers and workers over one fake server, with a clock that jumps and calls that fail.

The stations and stores are the true ones: `publish`, `publish.delay`, the delivery's task, every store and every Lua
script. What is simulated is below and around them: server, broker, time, processes, and who is next.
"""

from __future__ import annotations

import logging
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import fakeredis
import time_machine
from celery.exceptions import Reject
from redis.exceptions import RedisError

from events import Event, TextContent, TextMessageEvent
from events.errors import BrokerUnavailable
from tasks.celery import EventApp
from tasks.delivery import register
from tasks.publication import PUBLISH_QUEUE, PUBLISH_TASK, Publish
from tests.simulation.agents import AGENTS
from tests.simulation.broker import Broker, Message
from tests.simulation.injection import FaultyRedis, Injector, ProcessDied
from tests.simulation.turns import Turns

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
CALM_AFTER_STEPS = 1_500
MOST_STEPS = 20_000
PUBLISHERS, WORKERS = 2, 3

MOVERS: list[Callable[[EventApp], object]] = []
"""What a worker calls regularly beside its messages, such as the move of deliveries whose retry is due."""


class NeverAtRest(AssertionError):
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
    faults: int = 0
    runs: list[tuple[str, str]] = field(default_factory=list)
    """Runs of the ordered handler: stream and event, in the order in which they began."""


class SimulatedApp(EventApp):
    """An app whose broker is said to be, or not to be, the Redis of the state store."""

    is_one: bool

    @property
    def publishes_in_one_step(self) -> bool:  # type: ignore[override]  # the base works it out, and keeps it
        return self.is_one

    @property
    def driver(self) -> str:  # type: ignore[override]  # as above
        return "redis" if self.is_one else "memory"


class World:
    """Everything of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.trace: list[str] = []
        self.tally = Tally()
        self.rng = random.Random(seed)
        self.is_one_step = self.rng.random() < 0.75
        self._turns = Turns(self.rng)
        self.injector = Injector(self.rng, self._turns, self._note)
        self._clock: time_machine.Traveller | None = None
        self._steps = 0
        self._publishing = PUBLISHERS
        self._lost_holds = self.rng.choice([0.0, 0.01])
        server = fakeredis.FakeServer()
        self.client = fakeredis.FakeRedis(server=server, decode_responses=True)
        queues = [PUBLISH_QUEUE, *(agent.name for agent in AGENTS)]
        self.broker = Broker(server, self.client, queues, self.rng, self.injector)
        self.app = self._an_app(server)

    def run(self) -> None:
        """Publish, deliver and fail until all is at rest."""
        with time_machine.travel(BEGINNING, tick=False) as self._clock:
            self.app.stores.directory.announce(each for agent in AGENTS for each in agent.subscriptions)
            publishers = {f"publisher-{n}": lambda n=n: self._publish(n) for n in range(PUBLISHERS)}
            workers = {f"worker-{n}": self._work for n in range(WORKERS)}
            self._turns.run(publishers | workers)

    def _an_app(self, server: fakeredis.FakeServer) -> EventApp:
        state = FaultyRedis(server=server, decode_responses=True)
        state.injector = self.injector
        app = SimulatedApp("simulation", state=state, set_as_current=False)
        app.is_one = self.is_one_step
        app.conf.update(
            broker_url="memory://", broker_transport=self.broker.transport, result_backend="cache+memory://"
        )
        app.adopt(Publish)
        for agent in AGENTS:
            register(app, agent)
        return app

    # Publishers

    def _publish(self, number: int) -> None:
        """Publish some events, each until it is acknowledged, unless the process dies."""
        for place in range(self.rng.randint(2, 5)):
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
        publish: Any = self.app.tasks[PUBLISH_TASK]
        call = self.rng.choice([publish.run, publish.delay])
        while True:
            self._note(f"publish {event.event_id[:8]} by {call.__name__}")
            try:
                call(event)
            except BrokerUnavailable as error:
                self._note(f"publish {event.event_id[:8]}: {type(error).__name__}")
            else:
                return

    def _an_event(self, publisher: int, place: int) -> TextMessageEvent:
        told = [function for function in ("judge", "tell") if self.rng.random() < 0.2]
        text = " ".join([f"{publisher}.{place}", *(f"fail {function}" for function in told)])
        event_id = str(uuid.UUID(int=self.rng.getrandbits(128), version=4))
        return TextMessageEvent(event_id=event_id, stream_id=f"stream-{publisher}", content=TextContent(text=text))

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
        task: Any = self.app.tasks[message.headers["task"]]
        if task.name == "ordered.tell":
            document = message.arguments[0]
            self.tally.runs.append((str(document["stream_id"]), str(document["event_id"])))
        task.push_request(**message.headers, properties=message.properties, called_directly=False)
        try:
            outcome = task.run(*message.arguments)
        except Reject as rejected:
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
        return self._publishing == 0 and self.broker.is_empty()

    def _idle(self) -> None:
        for move in MOVERS:
            move(self.app)
        if self._publishing == 0 and self._clock is not None:
            self._clock.shift(timedelta(seconds=1))

    # Time

    def _pass_time(self) -> None:
        self._steps += 1
        if self._steps == CALM_AFTER_STEPS:
            self.injector.is_on = False
        if self._clock is not None:
            self._clock.shift(timedelta(milliseconds=self.rng.randint(0, 50)))
        if self.injector.is_on and self.rng.random() < self._lost_holds and (lost := self.broker.lose_a_hold()):
            self._note(f"{lost.shown}: its hold is lost, and it waits again")

    def _note(self, what: str) -> None:
        self.trace.append(f"{len(self.trace):5}  {self._turns.current or '-':12} {what}")


def run(seed: int) -> World:
    """Run a seed to its end."""
    # Every fault is logged by whoever meets it; the trace has them all.
    logging.disable(logging.CRITICAL)
    world = World(seed)
    try:
        world.run()
    finally:
        logging.disable(logging.NOTSET)
        world.app.close()
    return world


def explained(event: Event) -> str:
    """Name an event in a message to the reader."""
    return f"{event.event_id[:8]} ({event.event_type})"
