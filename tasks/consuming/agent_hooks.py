"""Hooks: what agents want done in every process that runs their handlers, before the first and after the last.

    @agent.on_start
    def load() -> None: ...

In a worker of processes (prefork) that is in each of them, also in one that replaces another; what fails there is
logged by Celery, and the process goes on. It has about 4 s. In other workers it is once, before the worker consumes,
and what fails keeps it from starting. A process that is killed runs no `on_stop`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from billiard import current_process
from celery import signals

from petiole.tasks import Agent
from petiole.tasks.celery import EventApp


def start(agents: Sequence[Agent]) -> None:
    """Run what agents want done at the start, in the order in which they were given."""
    for agent in agents:
        for act in agent.starts:
            act()


def stop(agents: Sequence[Agent]) -> None:
    """Run what agents want done at the end, the last given first."""
    for agent in reversed(agents):
        for act in reversed(agent.stops):
            act()


def hooks(app: EventApp, agents: Sequence[Agent]) -> None:
    """Let the processes of a worker's pool run what these agents want done."""

    def begun(**_: Any) -> None:
        # The solo pool sends the signal too, in the worker itself, where presence.py sees to it.
        if current_process().name != "MainProcess":
            start(_served(app, agents))

    def ended(**_: Any) -> None:
        stop(_served(app, agents))

    signals.worker_process_init.connect(begun, weak=False)
    signals.worker_process_shutdown.connect(ended, weak=False)


def _served(app: EventApp, agents: Sequence[Agent]) -> list[Agent]:
    return [agent for agent in agents if agent.name in app.amqp.queues.consume_from]
