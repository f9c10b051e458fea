"""Announcement: a worker writes the subscriptions of the agents it serves into the directory, before it consumes.

From then on every publisher sends to them, whether this worker runs or not.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps

from petiole.tasks.instrumentation import AgentChanged
from petiole.tasks.runtime import bus_of, included_agents


class Announcement(bootsteps.StartStopStep):
    """A step of the consumer's start. Celery repeats it after every reconnection, and after a refused connection."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def start(self, consumer: Any) -> None:
        """Announce the agents that this worker serves."""
        bus = bus_of(consumer.app)
        served = consumer.app.amqp.queues.consume_from
        for agent in included_agents(bus).values():
            if agent.name in served:
                bus.stores.directory.announce(agent.subscriptions)
                bus.instrumentation.emit(AgentChanged(agent=agent.name, change="announced"))
