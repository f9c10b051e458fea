"""Unguarded: what breakers and budgets do where the state store does not answer. They let calls through.

They are there to spare calls, not to prevent them. That is an alarm: `breaker.store_failed` in the log, as an error, once
for each outage; the calls are counted as `unguarded` once the store is back. After a failure it is not asked for
STORE_RETRY_AFTER_S: one call waits for it then, not each of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from redis.exceptions import RedisError

from petiole.events.errors import NotConfigured
from petiole.tasks.instrumentation import CallsGuardedAgain, CallsUnguarded

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

STORE_RETRY_AFTER_S = 5.0

ResultT = TypeVar("ResultT")


def query_store(bus: BusRuntime, operation: str, query: Callable[[], ResultT]) -> ResultT | None:
    """Ask the store whether a call may be made; None where it does not answer, and the call is to be let through."""
    outage = bus.resource(_Outage)
    if time.monotonic() < outage.until:
        outage.calls += 1
        return None
    try:
        answer = query()
        outage.end()
    except (RedisError, NotConfigured) as error:
        outage.calls += 1
        outage.begin(operation, error)
        return None
    return answer


def update_store(bus: BusRuntime, operation: str, update: Callable[[], ResultT]) -> ResultT | None:
    """Note in the store how a call ended; None where it does not answer."""
    try:
        return update()
    except (RedisError, NotConfigured) as error:
        bus.resource(_Outage).begin(operation, error)
        return None


@dataclass(slots=True)
class _Outage:
    """What this process knows of a store that is away, and how many calls went through meanwhile."""

    bus: BusRuntime
    until: float = 0.0
    calls: int = 0
    is_logged: bool = False

    def begin(self, operation: str, error: Exception) -> None:
        self.until = time.monotonic() + STORE_RETRY_AFTER_S
        if not self.is_logged:
            self.is_logged = True
            self.bus.instrumentation.emit(CallsUnguarded(operation=operation, error=str(error)))

    def end(self) -> None:
        if self.is_logged:
            self.bus.stores.counters.add("calls_without_breaker", self.calls)
            self.bus.instrumentation.emit(CallsGuardedAgain(unguarded=self.calls))
            self.calls, self.is_logged = 0, False
