"""Register the subscriptions of a worker's agents in the directory, before the worker consumes.

From then on every publisher sends to their queues, also while this worker is down. If the state store loses the
directory, a worker restores what it registered: every RESTORE_INTERVAL_S it looks, and after each reconnection.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import bootsteps

from petiole.events.subscriptions import Subscription
from petiole.tasks.consuming.periodic_job import PeriodicJob
from petiole.tasks.consuming.server_check import check_servers
from petiole.tasks.instrumentation import AgentChanged
from petiole.tasks.runtime import BusRuntime, bus_of, included_agents

log = logging.getLogger(__name__)

RESTORE_INTERVAL_S = 2.0


class SubscriptionRegistration(bootsteps.StartStopStep):
    """A step of the consumer's start. Celery repeats it after every reconnection."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        consumer.subscription_registration = self
        self._subscriptions: list[Subscription] = []
        self._version: int | None = None

    def start(self, consumer: Any) -> None:
        """Register the agents that this worker serves."""
        bus = bus_of(consumer.app)
        if self._version is not None:
            self.restore(bus)
            return
        check_servers(bus)
        served = consumer.app.amqp.queues.consume_from
        agents = [agent for agent in included_agents(bus).values() if agent.name in served]
        self._subscriptions = [subscription for agent in agents for subscription in agent.subscriptions]
        bus.stores.directory.register(self._subscriptions)
        self._version = bus.stores.directory.version()
        for agent in agents:
            bus.instrumentation.emit(AgentChanged(agent=agent.name, change="announced"))

    def restore(self, bus: BusRuntime) -> None:
        """Register the subscriptions again if the directory has lost any."""
        if self._version is None:
            return
        directory, subscriptions = bus.stores.directory, self._subscriptions
        is_intact = directory.is_intact(subscriptions, self._version)
        if not is_intact and directory.restore(subscriptions, self._version):
            log.warning("directory.restored", extra={"subscriptions": len(subscriptions)})
        self._version = directory.version()


def _restore(bus: BusRuntime, consumer: Any) -> None:
    bus.now()  # keeps the timestamps of events right, also if this machine's clock is set
    registration: SubscriptionRegistration | None = getattr(consumer, "subscription_registration", None)
    if registration is not None:
        registration.restore(bus)


RESTORE_SUBSCRIPTIONS = PeriodicJob("restore_subscriptions", RESTORE_INTERVAL_S, _restore)
