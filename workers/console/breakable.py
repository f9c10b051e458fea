"""Breakable: what the page Break it can damage. The demo has such a system; this module needs no extra."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class DemoWorker:
    """A worker process of the demo, and how often it was started again."""

    name: str
    pid: int
    restarts: int
    is_alive: bool


class Breakable(Protocol):
    """The system of the demo: its workers, which it starts again when they end, and its model."""

    def list_workers(self) -> Sequence[DemoWorker]:
        """Return the worker processes."""

    def kill_worker(self) -> DemoWorker:
        """Kill a worker with SIGKILL, and return what it was."""

    def stop_model(self) -> None:
        """Make the model unavailable."""

    def start_model(self) -> None:
        """Make the model available."""
