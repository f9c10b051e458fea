"""Register the subscriptions of a worker's agents in the directory, before the worker consumes.

From then on every publisher sends to their queues, also while this worker is down. Subscriptions of these agents whose
handlers the worker does not have are reported: another version of the agent made them, or the handler was renamed or
removed. If the state store loses the directory, a worker restores what it registered: every RESTORE_INTERVAL_S it
looks, and after each reconnection.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from celery import bootsteps
from celery.concurrency.prefork import TaskPool as ProcessPool
from celery.worker import state

from petiole.events.subscriptions import Subscription
from petiole.tasks.consuming.periodic_job import PeriodicJob
from petiole.tasks.consuming.process_pool import check_pool
from petiole.tasks.consuming.server_check import check_servers
from petiole.tasks.instrumentation import AgentChanged, HandlerMissing
from petiole.tasks.runtime import BusRuntime, bus_of, included_agents

log = logging.getLogger(__name__)

RESTORE_INTERVAL_S = 2.0

_REMEDY = (
    "its events wait for a worker that has it; if it was renamed: petiole subscriptions withdraw {name} --to NEW_NAME; "
    "if it was removed: petiole subscriptions withdraw {name} --purge"
)


class SubscriptionRegistration(bootsteps.StartStopStep):
    """A step of the consumer's start. Celery repeats it after every reconnection."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        consumer.subscription_registration = self
        self._subscriptions: list[Subscription] = []
        self._version: int | None = None
        self._reported: set[str] = set()

    def start(self, consumer: Any) -> None:
        """Register the agents that this worker serves, unless it was told to end while it connected."""
        state.maybe_shutdown()
        bus = bus_of(consumer.app)
        if self._version is not None:
            self.restore(bus)
            return
        check_servers(bus)
        if isinstance(consumer.pool, ProcessPool):
            check_pool(consumer.pool)
        served = consumer.app.amqp.queues.consume_from
        agents = [agent for agent in included_agents(bus).values() if agent.name in served]
        self._subscriptions = [subscription for agent in agents for subscription in agent.subscriptions]
        bus.trust.check_worker(self._subscriptions)
        bus.stores.directory.register(self._subscriptions)
        self._version = bus.stores.directory.version()
        for agent in agents:
            bus.instrumentation.emit(AgentChanged(agent=agent.name, change="announced"))
        self._report_without_handler(bus, {agent.name: agent for agent in agents})

    def _report_without_handler(self, bus: BusRuntime, agents: Mapping[str, Any]) -> None:
        for subscription in bus.read_routing().all():
            name, agent = subscription.name, agents.get(subscription.agent)
            if agent is not None and name not in agent.handlers and name not in self._reported:
                self._reported.add(name)
                bus.instrumentation.emit(HandlerMissing(subscription=name, remedy=_REMEDY.format(name=name)))

    def restore(self, bus: BusRuntime) -> None:
        """Register the subscriptions again if the directory has lost any."""
        if self._version is None:
            return
        directory, subscriptions = bus.stores.directory, self._subscriptions
        version = directory.intact_version(subscriptions, self._version)
        if version is None:
            if directory.restore(subscriptions, self._version):
                log.warning("directory.restored", extra={"subscriptions": len(subscriptions)})
            version = directory.version()
        self._version = version


def _restore(bus: BusRuntime, consumer: Any) -> None:
    bus.now()  # keeps the timestamps of events right, also if this machine's clock is set
    registration: SubscriptionRegistration | None = getattr(consumer, "subscription_registration", None)
    if registration is not None:
        registration.restore(bus)


RESTORE_SUBSCRIPTIONS = PeriodicJob("restore_subscriptions", RESTORE_INTERVAL_S, _restore)
