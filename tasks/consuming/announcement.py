"""Lifecycle: what a worker does beside consuming.

Before it consumes, it announces the subscriptions of the agents whose queues it serves: from then on every publisher
sends to them, whether this worker runs or not. It tells that it is there (presence.py), from which the lives of system
and agents follow, and runs what agents want done at start and end (hooks.py).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from celery import bootsteps

from petiole.events.subscriptions import Subscription
from petiole.tasks import Agent
from petiole.tasks.celery import EventApp
from petiole.tasks.consuming.agent_hooks import hooks
from petiole.tasks.consuming.heartbeat import PRESENCE, Presence
from petiole.tasks.consuming.maintenance import add_rounds

log = logging.getLogger(__name__)


class Announcement(bootsteps.StartStopStep):
    """A step of the consumer's start. Celery repeats it after every reconnection, and after a refused connection."""

    requires = ("celery.worker.consumer.connection:Connection",)
    subscriptions: Mapping[str, Sequence[Subscription]] = {}

    def start(self, consumer: Any) -> None:
        """Announce the agents that this worker serves."""
        app: EventApp = consumer.app
        served = app.amqp.queues.consume_from
        for agent, subscriptions in self.subscriptions.items():
            if agent in served:
                app.stores.directory.announce(subscriptions)
                log.info("agent.announced", extra={"agent": agent, "subscriptions": len(subscriptions)})


def announces(app: EventApp, agents: Sequence[Agent]) -> None:
    """Let every worker of this app announce these agents when it starts, and live with them.

    Raises InvalidSubscription now, and not in the worker, where an agent's splits leave streams without a variant.
    """
    subscriptions = {agent.name: agent.subscriptions for agent in agents}
    app.steps["consumer"].add(type("Announcement", (Announcement,), {"subscriptions": subscriptions}))
    app.steps["consumer"].add(type("Presence", (Presence,), {"agents": tuple(agents)}))
    add_rounds(app, [PRESENCE])
    hooks(app, agents)
