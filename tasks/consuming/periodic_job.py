"""A periodic job of a worker; tasks/consuming/maintenance.py runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from petiole.tasks.runtime import BusRuntime


@dataclass(frozen=True, slots=True)
class PeriodicJob:
    """Call `function(bus, consumer)` every `interval_s` seconds while the worker consumes, or sooner if it says so.

    The function returns the seconds until its next call, or None for `interval_s`; that is also the longest time.
    """

    name: str
    interval_s: float
    function: Callable[[BusRuntime, Any], float | None]
    runs_during_shutdown: bool = False
