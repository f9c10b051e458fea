"""Register the subscriptions of a worker's agents in the directory, before the worker consumes.

From then on every publisher sends to their queues, also while this worker is down.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps

from petiole.tasks.instrumentation import AgentChanged
from petiole.tasks.runtime import bus_of, included_agents


class SubscriptionRegistration(bootsteps.StartStopStep):
    """A step of the consumer's start. Celery repeats it after every reconnection."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def start(self, consumer: Any) -> None:
        """Register the agents that this worker serves."""
        bus = bus_of(consumer.app)
        served = consumer.app.amqp.queues.consume_from
        agents = [agent for agent in included_agents(bus).values() if agent.name in served]
        bus.stores.directory.register(subscription for agent in agents for subscription in agent.subscriptions)
        for agent in agents:
            bus.instrumentation.emit(AgentChanged(agent=agent.name, change="announced"))
