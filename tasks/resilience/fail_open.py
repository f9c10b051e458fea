"""Allow calls without circuit breakers and rate limits while the state store does not answer.

Circuit breakers and rate limits reduce load; an outage of the state store must not stop all calls. Each outage is
logged once as the error `breaker.store_failed`, and its calls are counted as `calls_without_breaker` when the store is
back. After a failure the store is not queried for STORE_RETRY_AFTER_S, so that only one call waits for its timeout.

An outage is no answer, or a server that says that it cannot serve now. Any other error reply is an error of ours: a
query raises it, so that nothing passes uncounted, and a failed update is logged as `breaker.update_failed`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from redis.exceptions import ClusterDownError, OutOfMemoryError, ReadOnlyError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from petiole.events.errors import NotConfigured
from petiole.events.texts import error_text
from petiole.tasks.instrumentation import CallsGuardedAgain, CallsUnguarded, OperationFailed

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

STORE_RETRY_AFTER_S = 5.0

_OUTAGES = (
    NotConfigured,
    RedisConnectionError,  # LOADING included
    RedisTimeoutError,
    ReadOnlyError,
    ClusterDownError,  # MASTERDOWN included
    OutOfMemoryError,
)

ResultT = TypeVar("ResultT")


def query_store(bus: BusRuntime, operation: str, query: Callable[[], ResultT]) -> ResultT | None:
    """Ask the store whether a call is allowed; None if it does not answer, so that the call is allowed.

    Raises RedisError for an error reply that is no outage.
    """
    outage = bus.resource(_Outage)
    if time.monotonic() < outage.until:
        outage.calls += 1
        return None
    try:
        answer = query()
        outage.end()
    except (RedisError, NotConfigured) as error:
        if not _is_outage(error):
            raise
        outage.calls += 1
        outage.begin(operation, error)
        return None
    return answer


def update_store(bus: BusRuntime, operation: str, update: Callable[[], ResultT]) -> ResultT | None:
    """Record the outcome of a call in the store; None if that fails: the call itself has been made."""
    try:
        return update()
    except (RedisError, NotConfigured) as error:
        if _is_outage(error):
            bus.resource(_Outage).begin(operation, error)
        else:
            failed = OperationFailed(operation="breaker.update_failed", exception=error, subject=operation)
            bus.instrumentation.emit(failed)
        return None


def _is_outage(error: Exception) -> bool:
    # MISCONF: the server could not save, and accepts no writes until it can. redis-py has no class for it.
    return isinstance(error, _OUTAGES) or str(error).startswith("MISCONF")


@dataclass(slots=True)
class _Outage:
    """This process's record of a state store outage, and the number of calls during it."""

    bus: BusRuntime
    until: float = 0.0
    calls: int = 0
    is_logged: bool = False

    def begin(self, operation: str, error: Exception) -> None:
        self.until = time.monotonic() + STORE_RETRY_AFTER_S
        if not self.is_logged:
            self.is_logged = True
            self.bus.instrumentation.emit(CallsUnguarded(operation=operation, error=error_text(error)))

    def end(self) -> None:
        if self.is_logged:
            self.bus.stores.counters.add("calls_without_breaker", self.calls)
            self.bus.instrumentation.emit(CallsGuardedAgain(unguarded=self.calls))
            self.calls, self.is_logged = 0, False
