"""Circuit breaker of one dependency, as its callers use it.

    with CircuitCall(bus, name, thresholds, ignored_errors):   raises ServiceUnavailable while the circuit is open
        call()                                                 its outcome is recorded: error_classification.py

The process whose call changes the state publishes the change: circuit_events.py.

If the state store does not answer, the call is allowed as if the circuit were closed, and an error is logged:
fail_open.py.
"""

from __future__ import annotations

import asyncio
import difflib
import random
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, Self

from petiole.events.errors import ServiceUnavailable, error_type_of, unknown_circuit
from petiole.events.texts import error_text
from petiole.tasks.handling.current import current_context
from petiole.tasks.operations.operator import current_operator
from petiole.tasks.resilience.circuit_events import MAX_ERROR_LENGTH, process_name, publish_change
from petiole.tasks.resilience.error_classification import classify_outcome, retry_after
from petiole.tasks.resilience.fail_open import query_store, update_store
from petiole.tasks.stores.circuits import CircuitChange, CircuitOutcome, CircuitThresholds

if TYPE_CHECKING:
    from types import TracebackType

    from petiole.tasks.runtime import BusRuntime

RETRY_JITTER = 0.1
"""The most jitter of a caller's wait for the next probe, as a fraction of it. One caller probes before the others."""


@dataclass(slots=True)
class CircuitCall:
    """Context manager for one call through a circuit breaker. Enter it once."""

    bus: BusRuntime
    name: str
    thresholds: CircuitThresholds
    ignored_errors: tuple[type[Exception], ...] = ()
    _epoch: int | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        """Request a permit for the call. Raises ServiceUnavailable."""
        permit = query_store(
            self.bus, self.name, lambda: self.bus.stores.circuits.request_permit(self.name, self.thresholds)
        )
        if permit is None:
            return self
        self._epoch = permit.epoch
        if self._epoch is None:
            raise _unavailable(self.bus, self.name, permit.wait)
        if permit.transition:
            self._publish_change(CircuitChange(permit.transition, self._epoch, 0, timedelta(0)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Record the call's outcome. An exception of the call propagates.

        Raises:
            ServiceUnavailable: The call failed in a handler, and the circuit is open afterwards. The delivery is
                deferred without counting an attempt, even if it probes repeatedly.
        """
        epoch = self._epoch
        if epoch is None:
            return
        outcome = classify_outcome(error, self.ignored_errors)
        change = update_store(self.bus, self.name, lambda: self._record_outcome(epoch, outcome, error))
        if change is None:
            return
        if change.transition:
            self._publish_change(change, error)
        if change.wait and outcome == "failed" and isinstance(error, Exception) and current_context() is not None:
            raise _unavailable(self.bus, self.name, change.wait) from error

    async def __aenter__(self) -> Self:
        """As __enter__, without blocking the event loop."""
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """As __exit__, without blocking the event loop."""
        await asyncio.to_thread(self.__exit__, kind, error, trace)

    def _record_outcome(self, epoch: int, outcome: CircuitOutcome, error: BaseException | None) -> CircuitChange:
        return self.bus.stores.circuits.record_outcome(
            self.name,
            self.thresholds,
            epoch,
            outcome,
            retry_after=(error and retry_after(error)) or timedelta(0),
            error="" if error is None else f"{error_type_of(error)}: {error_text(error)}"[:MAX_ERROR_LENGTH],
            by=process_name(),
        )

    def _publish_change(self, change: CircuitChange, error: BaseException | None = None) -> None:
        publish_change(self.bus, self.name, change, by=process_name(), error=error)


def force_state(
    bus: BusRuntime,
    name: str,
    state: Literal["open", "closed"],
    probe_after: timedelta | None = None,
    *,
    by: str | None = None,
) -> bool:
    """Open or close a circuit by hand, and publish the change; returns whether the state changed.

    Args:
        bus: The bus that has the circuit.
        name: The circuit's name.
        state: The new state.
        probe_after: When an opened circuit allows a probe. Without it, the circuit stays open until it is closed.
        by: Who changes it; by default the user of this process.

    Raises:
        UsageError: (unknown_circuit) no call has used a circuit of that name.
    """
    by = by or current_operator()
    change = bus.stores.circuits.set(name, state, probe_after=probe_after, error=f"{state} by {by}", by=by)
    if not change.epoch:
        nearest = difflib.get_close_matches(name, bus.stores.circuits.names(), n=1)
        raise unknown_circuit(name, nearest[0] if nearest else None)
    if change.transition:
        publish_change(bus, name, change, by=by, error=f"{state} by {by}")
    return bool(change.transition)


def _unavailable(bus: BusRuntime, name: str, wait: timedelta) -> ServiceUnavailable:
    retry_at = bus.now() + wait
    after_s = wait.total_seconds() * (1 + RETRY_JITTER * random.random())  # noqa: S311 - not a secret
    return ServiceUnavailable(name, retry_at, round(after_s, 3))
