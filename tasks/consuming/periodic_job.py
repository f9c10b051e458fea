"""A periodic job of a worker: a function that maintenance.py calls again and again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from petiole.tasks.runtime import BusRuntime


@dataclass(frozen=True, slots=True)
class PeriodicJob:
    """Something to do every `interval_s` seconds: `act(bus, consumer)`."""

    name: str
    interval_s: float
    function: Callable[[BusRuntime, Any], object]
    runs_during_shutdown: bool = False
