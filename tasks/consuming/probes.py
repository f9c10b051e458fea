"""Probes: `/alive` and `/ready` of a worker, at the port of its metrics.

    /alive    the process makes progress; no question of the broker, whose outage is no reason to restart a worker
    /ready    the worker consumes, and the state store took its last heartbeat

The answers are read from this process's memory, so that they hold no lock and no connection while the pool is forked.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from celery import bootsteps

from petiole.events.errors import UsageError
from petiole.tasks.consuming.metrics_server import MetricsServer
from petiole.tasks.consuming.stall import StallCheck
from petiole.tasks.runtime import bus_of


class WorkerProbes(bootsteps.StartStopStep):
    """A step of the worker that serves its probes before it connects to the broker."""

    requires = ("celery.worker.components:Pool",)

    def start(self, worker: Any) -> None:
        """Start to serve, if PETIOLE_METRICS_PORT is set."""
        bus = bus_of(worker.app)
        if (port := bus.settings.metrics_port) is None:
            return
        server, stall = bus.resource(MetricsServer), bus.resource(StallCheck)
        server.add_probe("/alive", lambda: stall.problem)
        server.add_probe("/ready", partial(_find_problem, bus.settings.heartbeat_timeout_s, stall, worker))
        try:
            server.start(bus.settings.metrics_host, port)
        except UsageError:
            return  # the job `serve_metrics` tries again, and reports it


def _find_problem(timeout_s: float, stall: StallCheck, worker: Any) -> str | None:
    heartbeat = getattr(getattr(worker, "consumer", None), "heartbeat", None)
    if heartbeat is None:
        return "the worker has not connected yet"
    if heartbeat.phase != "running":
        return f"the worker is {heartbeat.phase}"
    silent_s = time.monotonic() - heartbeat.sent_at
    if silent_s > timeout_s:
        return f"the broker or the state store has not answered for {silent_s:.0f} s"
    if not worker.app.amqp.queues.consume_from:
        return "the worker consumes no queue"
    return stall.problem
