"""Circuits: one dependency's circuit breaker as its callers use it, and what is told of its changes.

    with passage_through(bus, name, limits, mistakes):     refused with ServiceUnavailable while the circuit is open
        call()                                             how it ends is noted: see blame.py

Each change is told by the process whose call made it: circuit_events.py.

Where the state store does not answer, the call goes through as if the circuit were closed, and that is an alarm:
unguarded.py.
"""

from __future__ import annotations

import asyncio
import difflib
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal, Self

from petiole.events.errors import ServiceUnavailable, error_type_of, unknown_circuit
from petiole.tasks.handling.current import current_context
from petiole.tasks.operations.operator import operator_here
from petiole.tasks.resilience.circuit_events import SHOWN_LENGTH, caller, tell
from petiole.tasks.resilience.error_classification import ending_of, retry_after
from petiole.tasks.resilience.fail_open import ask, note
from petiole.tasks.stores.circuits import Ending, Limits, Noted

if TYPE_CHECKING:
    from types import TracebackType

    from petiole.tasks.runtime import BusRuntime

SPREAD = 0.1
"""Those who wait for a probe come again spread over this share of their wait: one probes, and the rest find out."""


@dataclass(slots=True)
class Passage:
    """One call's way through a circuit. Enter it once."""

    bus: BusRuntime
    name: str
    limits: Limits
    mistakes: tuple[type[Exception], ...] = ()
    _epoch: int | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        """Ask to be let through. Raises ServiceUnavailable."""
        admission = ask(self.bus, self.name, lambda: self.bus.stores.circuits.enter(self.name, self.limits))
        if admission is None:
            return self
        self._epoch = admission.epoch
        if self._epoch is None:
            raise _unavailable(self.name, admission.wait)
        if admission.change:
            self._tell(Noted(admission.change, self._epoch, 0, timedelta(0)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Note how the call ended; what it raised goes on.

        Raises: ServiceUnavailable for a failure in a handler that leaves the circuit open, or finds it so: the
        delivery is put off like the others, however often it was the one to probe.
        """
        epoch = self._epoch
        if epoch is None:
            return
        ending = ending_of(error, self.mistakes)
        noted = note(self.bus, self.name, lambda: self._leave(epoch, ending, error))
        if noted is None:
            return
        if noted.change:
            self._tell(noted, error)
        if noted.wait and ending == "failed" and isinstance(error, Exception) and current_context() is not None:
            raise _unavailable(self.name, noted.wait) from error

    async def __aenter__(self) -> Self:
        """As __enter__; the loop goes on meanwhile."""
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """As __exit__; the loop goes on meanwhile."""
        await asyncio.to_thread(self.__exit__, kind, error, trace)

    def _leave(self, epoch: int, ending: Ending, error: BaseException | None) -> Noted:
        return self.bus.stores.circuits.leave(
            self.name,
            self.limits,
            epoch,
            ending,
            left_alone=(error and retry_after(error)) or timedelta(0),
            error="" if error is None else f"{error_type_of(error)}: {error}"[:SHOWN_LENGTH],
            by=caller(),
        )

    def _tell(self, noted: Noted, error: BaseException | None = None) -> None:
        tell(self.bus, self.name, noted, by=caller(), error=error)


def set_by_hand(
    bus: BusRuntime, name: str, state: Literal["open", "closed"], probe_after: timedelta | None = None
) -> bool:
    """Open or close a circuit on an operator's word, and tell it; returns whether that is a change.

    Without `probe_after`, one that is opened stays open until it is closed. Raises UsageError (unknown_circuit).
    """
    by = operator_here()
    noted = bus.stores.circuits.set(name, state, probe_after=probe_after, error=f"{state} by {by}", by=by)
    if not noted.epoch:
        nearest = difflib.get_close_matches(name, bus.stores.circuits.names(), n=1)
        raise unknown_circuit(name, nearest[0] if nearest else None)
    if noted.change:
        tell(bus, name, noted, by=by, error=f"{state} by {by}")
    return bool(noted.change)


def _unavailable(name: str, wait: timedelta) -> ServiceUnavailable:
    retry_at = datetime.now(UTC) + wait
    after_s = wait.total_seconds() * (1 + SPREAD * random.random())  # noqa: S311 - no secret
    return ServiceUnavailable(name, retry_at, round(after_s, 3))
