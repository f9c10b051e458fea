"""Pulse: whether a worker's process gets on, asked on its own machine and without a network.

A thread of the worker touches a file every second; `petiole alive` looks how old it is. Where there is an event loop
(prefork), the thread does so only while the loop turns, so a worker that is stuck loses its pulse. A worker that looks
for its broker has no loop for that time, and keeps its pulse: it comes back by itself. Solo and thread pools tell of
the process alone: a handler may hold solo's loop for an hour.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from celery import bootsteps

from petiole.tasks.runtime import BusRuntime

TOUCH_INTERVAL_S = 1.0
STUCK_AFTER_S = 10.0
"""After how long a loop that does not turn counts as stuck."""
DEAD_AFTER_S = 15.0
"""How old a pulse may be."""


def liveness_file(node: str) -> Path:
    """Name the file that holds the pulse of a worker on this machine, of this user."""
    name = re.sub(r"[^\w@.-]", "_", node)
    return Path(tempfile.gettempdir()) / f"petiole-{os.getuid()}" / f"{name}.alive"


def find_liveness_problem(node: str) -> str | None:
    """Say why a worker of this machine is taken for dead or stuck; None where it is alive."""
    try:
        age_s = time.time() - liveness_file(node).stat().st_mtime
    except FileNotFoundError:
        return f"no worker {node} was started here by this user"
    if age_s > DEAD_AFTER_S:
        return f"{node} has not turned its loop, or is dead, for {age_s:.0f} s"
    return None


class LivenessThread(threading.Thread):
    """The thread that touches the file."""

    def __init__(self, node: str) -> None:
        super().__init__(name="petiole-liveness", daemon=True)
        self.node = node
        self._file = liveness_file(node)
        self._stopping = threading.Event()
        self.last_iteration_at: float | None = None
        """When the event loop turned last; None while there is none."""

    def run(self) -> None:
        """Touch the file every second, unless the loop is stuck."""
        self._file.parent.mkdir(mode=0o700, exist_ok=True)
        while True:
            if not self._is_stuck():
                self._file.touch(mode=0o600)
            if self._stopping.wait(TOUCH_INTERVAL_S):
                break
        self._file.unlink(missing_ok=True)

    def stop(self) -> None:
        """Stop, and take the file away."""
        self._stopping.set()
        self.join(2 * TOUCH_INTERVAL_S)

    def record_loop_iteration(self) -> None:
        """Note that the loop turns."""
        self.last_iteration_at = time.monotonic()

    def _is_stuck(self) -> bool:
        turned_at = self.last_iteration_at
        return turned_at is not None and time.monotonic() - turned_at > STUCK_AFTER_S


class WorkerLiveness(bootsteps.StartStopStep):
    """The worker's part: from its start to its end."""

    def start(self, worker: Any) -> None:
        """Begin to touch."""
        worker.petiole_pulse = LivenessThread(worker.hostname)
        worker.petiole_pulse.start()

    def stop(self, worker: Any) -> None:
        """Stop touching."""
        worker.petiole_pulse.stop()

    def terminate(self, worker: Any) -> None:
        """As stop."""
        self.stop(worker)


class EventLoopLiveness(bootsteps.StartStopStep):
    """The consumer's part: while it is connected, its loop has to turn."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def start(self, consumer: Any) -> None:
        """Have the loop tell that it turns, where there is one."""
        pulse: LivenessThread = consumer.controller.petiole_pulse
        if consumer.hub is not None and consumer.controller.pool_cls.__module__.endswith("prefork"):
            pulse.record_loop_iteration()
            consumer.hub.call_repeatedly(TOUCH_INTERVAL_S, pulse.record_loop_iteration)

    def stop(self, consumer: Any) -> None:
        """Expect nothing of a loop that ends, with its connection or with the worker."""
        consumer.controller.petiole_pulse.last_iteration_at = None

    def terminate(self, consumer: Any) -> None:
        """As stop."""
        self.stop(consumer)

    def shutdown(self, consumer: Any) -> None:
        """As stop."""
        self.stop(consumer)


def install_liveness(bus: BusRuntime) -> None:
    """Let every worker of this app have a pulse."""
    bus.app.steps["worker"].add(WorkerLiveness)
    bus.app.steps["consumer"].add(EventLoopLiveness)
