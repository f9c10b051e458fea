"""Agent hooks: functions that run in every handler process of an agent, before the first and after the last handler.

    @agent.on_start
    def load() -> None: ...

In the prefork pool they run in every child process, replacements included, before it takes a delivery. A process has
worker_proc_alive_timeout for all of them, then Celery kills it; Celery logs their errors, and the process continues. In
other pools they run once, before the worker consumes and its agents are reported as started, and an error stops the
start. A killed process runs no `on_stop`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from billiard import current_process
from celery import current_app, signals

from petiole.tasks.agents import Agent
from petiole.tasks.consuming.process_pool import end_if_orphaned
from petiole.tasks.runtime import BusRuntime, included_agents


def run_start_hooks(agents: Sequence[Agent]) -> None:
    """Run the agents' `on_start` functions in the order of registration."""
    for agent in agents:
        for run in agent.starts:
            run()


def run_stop_hooks(agents: Sequence[Agent]) -> None:
    """Run the agents' `on_stop` functions in reverse order of registration."""
    for agent in reversed(agents):
        for run in reversed(agent.stops):
            run()


def connect(bus: BusRuntime) -> None:
    """Run the agents' hooks in the processes of this worker's pool. Safe to repeat; call it before the pool forks."""
    bus.resource(_connect)


def _connect(bus: BusRuntime) -> bool:
    def on_init(**_: Any) -> None:
        # The solo pool sends the signal too, in the worker itself, where heartbeat.py runs the hooks.
        if current_process().name != "MainProcess" and _is_current(bus):
            end_if_orphaned()
            run_start_hooks(served_agents(bus))

    def on_shutdown(**_: Any) -> None:
        if _is_current(bus):
            run_stop_hooks(served_agents(bus))

    signals.worker_process_init.connect(on_init, weak=False)
    signals.worker_process_shutdown.connect(on_shutdown, weak=False)
    return True


def served_agents(bus: BusRuntime) -> list[Agent]:
    """Return the agents whose queues this worker consumes."""
    served = bus.app.amqp.queues.consume_from
    return [agent for agent in included_agents(bus).values() if agent.name in served]


def _is_current(bus: BusRuntime) -> bool:
    # Celery sends its signals to every bus of the process, and a pool process belongs to one app.
    return current_app._get_current_object() is bus.app  # type: ignore[attr-defined]  # noqa: SLF001 - Celery's proxy
