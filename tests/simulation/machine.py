"""The machine: what all seeds of a process share, because making it takes longer than a run: bus, server, clients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import fakeredis
from celery import Celery
from kombu import pools
from kombu.transport import TRANSPORT_ALIASES
from redis import Redis

from petiole.tasks import EventBus
from petiole.tasks.broker.topology import PUBLISH_TASK
from petiole.tasks.routing.table import RoutingTable
from petiole.tasks.settings import Settings
from petiole.tasks.stores import Stores
from petiole.tasks.stores.scripts import Script
from petiole.tasks.transport.commands import TransportCommands
from tests.simulation.agents import AGENTS
from tests.simulation.channel import SimulatedTransport
from tests.simulation.injection import FaultyRedis

if TYPE_CHECKING:
    from tests.simulation.world import World

FORGETS_SCRIPTS = 0.1
"""In how many runs the server knows no script at their beginning, as after a restart."""

MAX_CRASHES = 3
"""How many processes a delivery may crash before it is poison."""


class SimulatedBus(EventBus):
    """A bus whose broker is the Redis of the state store."""

    publishes_atomically = True
    driver = "redis"

    def forget(self) -> None:
        """Know nothing, as a new process: no subscription, no state, no time, no connection of publishers."""
        self._routing = RoutingTable([], version=-1)
        self.stores.server_clock._read_at = float("-inf")
        vars(self.app.tasks[PUBLISH_TASK]).pop("_state_checked_at", None)
        pools.reset()
        app: Any = self.app
        app.amqp._producer_pool = app._pool = None


@dataclass(frozen=True, slots=True)
class Machine:
    """A server, a bus and a channel's client that use it through faults, and a client past all faults."""

    server: fakeredis.FakeServer
    bus: SimulatedBus
    clients: tuple[FaultyRedis, FaultyRedis]
    client: Redis

    def begin(self, world: World) -> None:
        """Begin a run, with nothing left of the one before."""
        for client in self.clients:
            client.injector, client.observe, client.connections = world.injector, world.observe, world.connections
        self.client.flushall()
        self.client.script_flush()
        self.bus.forget()
        if world.rng.random() >= FORGETS_SCRIPTS:
            for _, text in FaultyRedis.scripts.values():
                self.client.script_load(text)


@cache
def machine() -> Machine:
    """Return the machine of this process."""
    server = fakeredis.FakeServer()
    state = FaultyRedis(server=server, decode_responses=True)
    transport = FaultyRedis(server=server)
    settings = Settings(max_delivery_crashes=MAX_CRASHES)
    bus = SimulatedBus(Celery("simulation", set_as_current=False), settings=settings)
    bus._state = state
    TRANSPORT_ALIASES["simulated"] = f"{SimulatedTransport.__module__}:{SimulatedTransport.__qualname__}"
    bus.app.conf.update(broker_url="simulated://server", result_backend="cache+memory://")
    bus.app.conf.broker_transport_options = {
        "clients": (transport, fakeredis.FakeRedis(server=server)),
        "state_prefix": settings.key_prefix,
    }
    bus.include(*AGENTS)
    bus.app.finalize()
    _open_all(bus)
    TransportCommands(transport, settings.key_prefix, "", ())
    return Machine(server, bus, (state, transport), fakeredis.FakeRedis(server=server, decode_responses=True))


def _open_all(bus: EventBus) -> None:
    """Open all stores: a seed does not depend on what earlier ones have used. Names their scripts."""
    names = [name for name, member in vars(Stores).items() if isinstance(member, cached_property)]
    for store in [getattr(bus.stores, name) for name in names]:
        for script in vars(store).values() if hasattr(store, "__dict__") else ():
            if isinstance(script, Script):
                FaultyRedis.name_script(script._text)
