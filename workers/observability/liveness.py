"""Liveness: whether a worker process makes progress. The check runs on the worker's machine and uses no network.

A thread of the worker touches a file every second, and `petiole alive` checks the age of that file.

- Prefork pool: the thread touches the file only while the worker's event loop iterates, so a stuck worker fails the
  check.
- Reconnecting to the broker: the worker has no event loop then and stays alive, because it recovers by itself.
- Solo and thread pools: the file shows that the process runs. A handler may block solo's loop for an hour.
- A stalled worker (tasks/consuming/stall.py) writes why into the file.

The worker answers the same at `/alive`, if it serves metrics.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import bootsteps

from petiole.tasks.consuming.metrics_server import MetricsServer
from petiole.tasks.consuming.stall import StallCheck
from petiole.tasks.runtime import BusRuntime, bus_of

TOUCH_INTERVAL_S = 1.0
STUCK_AFTER_S = 10.0
"""An event loop without an iteration for this long counts as stuck."""
DEAD_AFTER_S = 15.0
"""A worker whose file is older than this counts as dead or stuck."""


def liveness_file(node: str) -> Path:
    """Return the path of the file that a worker of this user touches on this machine."""
    name = re.sub(r"[^\w@.-]", "_", node)
    return Path(tempfile.gettempdir()) / f"petiole-{os.getuid()}" / f"{name}.alive"


def find_liveness_problem(node: str) -> str | None:
    """Return why a worker on this machine counts as dead or stuck, or None if it is alive."""
    file = liveness_file(node)
    try:
        age_s = time.time() - file.stat().st_mtime
        stall = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return f"this user started no worker {node} on this machine"
    if age_s > DEAD_AFTER_S:
        return f"{node} has been dead or stuck for {age_s:.0f} s"
    return stall or None


class LivenessThread(threading.Thread):
    """A thread that touches the worker's file every second."""

    def __init__(self, node: str, find_stall: Callable[[], str | None] = lambda: None) -> None:
        super().__init__(name="petiole-liveness", daemon=True)
        self.node = node
        self._find_stall = find_stall
        self._file = liveness_file(node)
        self._stopping = threading.Event()
        self.last_iteration_at: float | None = None
        """The time of the event loop's last iteration; None while there is no loop."""

    def run(self) -> None:
        """Touch the file every second unless the event loop is stuck."""
        self._file.parent.mkdir(mode=0o700, exist_ok=True)
        while True:
            if not self._is_stuck():
                self._file.touch(mode=0o600)
                self._file.write_text(self._find_stall() or "", encoding="utf-8")
            if self._stopping.wait(TOUCH_INTERVAL_S):
                break
        self._file.unlink(missing_ok=True)

    def stop(self) -> None:
        """Stop the thread and remove the file."""
        self._stopping.set()
        self.join(2 * TOUCH_INTERVAL_S)

    def record_loop_iteration(self) -> None:
        """Record an iteration of the event loop."""
        self.last_iteration_at = time.monotonic()

    def find_problem(self) -> str | None:
        """Return why the process counts as stuck, or None."""
        return f"the event loop has not turned for {STUCK_AFTER_S:g} s" if self._is_stuck() else None

    def _is_stuck(self) -> bool:
        iterated_at = self.last_iteration_at
        return iterated_at is not None and time.monotonic() - iterated_at > STUCK_AFTER_S


class WorkerLiveness(bootsteps.StartStopStep):
    """Run the liveness thread while the worker runs."""

    def start(self, worker: Any) -> None:
        """Start the thread."""
        bus = bus_of(worker.app)
        stall = bus.resource(StallCheck)
        liveness = worker.petiole_liveness = LivenessThread(worker.hostname, lambda: stall.problem)
        liveness.start()
        bus.resource(MetricsServer).add_probe("/alive", liveness.find_problem)

    def stop(self, worker: Any) -> None:
        """Stop the thread."""
        worker.petiole_liveness.stop()

    def terminate(self, worker: Any) -> None:
        """Do the same as `stop`."""
        self.stop(worker)


class EventLoopLiveness(bootsteps.StartStopStep):
    """Record the iterations of the event loop while the consumer is connected."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def start(self, consumer: Any) -> None:
        """Record each second of the event loop, if the pool has one."""
        liveness: LivenessThread = consumer.controller.petiole_liveness
        if consumer.hub is not None and consumer.controller.pool_cls.__module__.endswith("prefork"):
            liveness.record_loop_iteration()
            consumer.hub.call_repeatedly(TOUCH_INTERVAL_S, liveness.record_loop_iteration)

    def stop(self, consumer: Any) -> None:
        """Expect no more iterations: the loop ends with its connection or with the worker."""
        consumer.controller.petiole_liveness.last_iteration_at = None

    def terminate(self, consumer: Any) -> None:
        """Do the same as `stop`."""
        self.stop(consumer)

    def shutdown(self, consumer: Any) -> None:
        """Do the same as `stop`."""
        self.stop(consumer)


def install_liveness(bus: BusRuntime) -> None:
    """Add the liveness thread to every worker of this bus."""
    bus.app.steps["worker"].add(WorkerLiveness)
    bus.app.steps["consumer"].add(EventLoopLiveness)
