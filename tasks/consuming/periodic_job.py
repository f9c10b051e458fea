"""A periodic job of a worker; tasks/consuming/maintenance.py runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from petiole.tasks.runtime import BusRuntime


@dataclass(frozen=True, slots=True)
class PeriodicJob:
    """Call `function(bus, consumer)` every `interval_s` seconds while the worker consumes."""

    name: str
    interval_s: float
    function: Callable[[BusRuntime, Any], object]
    runs_during_shutdown: bool = False
