"""Lifecycle: what a worker does beside consuming.

Before it consumes, it announces the subscriptions of the agents whose queues it serves: from then on every publisher
sends to them, whether this worker runs or not.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from celery import bootsteps

from tasks import Agent
from tasks.celery import EventApp

log = logging.getLogger(__name__)


class Announcement(bootsteps.StartStopStep):
    """A step of the consumer's start. Celery repeats it after every reconnection, and after a refused connection."""

    requires = ("celery.worker.consumer.connection:Connection",)
    agents: Sequence[Agent] = ()

    def start(self, consumer: Any) -> None:
        """Announce the agents that this worker serves."""
        app: EventApp = consumer.app
        served = app.amqp.queues.consume_from
        for agent in self.agents:
            if agent.name in served:
                app.stores.directory.announce(agent.subscriptions)
                log.info("agent.announced", extra={"agent": agent.name, "subscriptions": len(agent.subscriptions)})


def announces(app: EventApp, agents: Sequence[Agent]) -> None:
    """Let every worker of this app announce these agents when it starts."""
    app.steps["consumer"].add(type("Announcement", (Announcement,), {"agents": tuple(agents)}))
