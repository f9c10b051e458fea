"""Register the subscriptions of a worker's agents in the directory, before the worker consumes.

From then on every publisher sends to their queues, also while this worker is down. Subscriptions of these agents whose
handlers the worker does not have are reported: another version of the agent made them, or the handler was renamed or
removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import bootsteps

from petiole.tasks.instrumentation import AgentChanged, HandlerMissing
from petiole.tasks.runtime import BusRuntime, bus_of, included_agents

_REMEDY = (
    "its events wait for a worker that has it; if it was renamed: petiole subscriptions withdraw {name} --to NEW_NAME; "
    "if it was removed: petiole subscriptions withdraw {name} --purge"
)


class SubscriptionRegistration(bootsteps.StartStopStep):
    """A step of the consumer's start. Celery repeats it after every reconnection."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._reported: set[str] = set()

    def start(self, consumer: Any) -> None:
        """Register the agents that this worker serves."""
        bus = bus_of(consumer.app)
        served = consumer.app.amqp.queues.consume_from
        agents = [agent for agent in included_agents(bus).values() if agent.name in served]
        bus.stores.directory.register(subscription for agent in agents for subscription in agent.subscriptions)
        for agent in agents:
            bus.instrumentation.emit(AgentChanged(agent=agent.name, change="announced"))
        self._report_without_handler(bus, {agent.name: agent for agent in agents})

    def _report_without_handler(self, bus: BusRuntime, agents: Mapping[str, Any]) -> None:
        for subscription in bus.read_routing().all():
            name, agent = subscription.name, agents.get(subscription.agent)
            if agent is not None and name not in agent.handlers and name not in self._reported:
                self._reported.add(name)
                bus.instrumentation.emit(HandlerMissing(subscription=name, remedy=_REMEDY.format(name=name)))
