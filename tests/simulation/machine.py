"""The machine: what all seeds of a process share, because making it takes longer than a run: bus, server, client.

There are two: one whose broker is the Redis of the state store, so that publication is one step; one where it is not.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import fakeredis
from celery import Celery
from redis import Redis

from petiole.tasks import EventBus
from petiole.tasks.broker.topology import PUBLISH_QUEUE
from petiole.tasks.routing.table import RoutingTable
from petiole.tasks.settings import Settings
from petiole.tasks.settlement import settlement
from tests.simulation.agents import AGENTS
from tests.simulation.broker import Broker, sending_transport
from tests.simulation.injection import FaultyRedis, Injector

FORGETS_SCRIPTS = 0.1
"""In how many runs the server knows no script at their beginning, as after a restart."""


class SimulatedApp(EventBus):
    """A bus whose broker is said to be, or not to be, the Redis of the state store."""

    is_one: bool

    @property
    def publishes_atomically(self) -> bool:
        return self.is_one

    @property
    def driver(self) -> str:
        return "redis" if self.is_one else "memory"

    def forget_routing(self) -> None:
        """Know no subscription, as a new process."""
        self._routing = RoutingTable([], version=-1)


@dataclass(frozen=True, slots=True)
class Machine:
    """A server, a bus that uses it through faults, and a client past all faults."""

    bus: SimulatedApp
    state: FaultyRedis
    client: Redis
    broker: Broker

    def begin(self, rng: random.Random, injector: Injector) -> None:
        """Begin a run, with nothing left of the one before."""
        self.state.injector = injector
        self.client.flushall()
        self.bus.forget_routing()
        self.broker.begin(rng, injector)
        if rng.random() < FORGETS_SCRIPTS:
            self.client.script_flush()
        else:
            for text in _scripts():
                self.client.script_load(text)


@cache
def machine_of(*, is_one_step: bool) -> Machine:
    """Return the machine of that kind."""
    server = fakeredis.FakeServer()
    client = fakeredis.FakeRedis(server=server, decode_responses=True)
    state = FaultyRedis(server=server, decode_responses=True)
    transport = sending_transport(state)
    # Processes die at every tenth call here: what is poison elsewhere is the weather.
    settlement.REQUEUE_PAUSE_S = 0.0
    bus = SimulatedApp(Celery("simulation", set_as_current=False), settings=Settings(max_delivery_crashes=1_000_000))
    bus._state = state
    bus.is_one = is_one_step
    bus.app.conf.update(broker_url="memory://", broker_transport=transport, result_backend="cache+memory://")
    bus.include(*AGENTS)
    queues = [PUBLISH_QUEUE, *(agent.name for agent in AGENTS)]
    return Machine(bus, state, client, Broker(server, client, transport, queues))


@cache
def _scripts() -> tuple[str, ...]:
    folder = files("petiole.tasks.stores.scripts")
    texts = {each.name: each.read_text() for each in folder.iterdir() if each.name.endswith(".lua")}
    return (*texts.values(), *(texts["append_to_history.lua"] + text for text in texts.values()))
