"""Circuits: circuit breakers shared by all workers, one for each dependency.

Promise: a circuit opens once, however many calls fail at the same time. One worker of the cluster probes at a time.
Calls of an earlier epoch change nothing. Times are the server's. See request_permit.lua and record_call_outcome.lua.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias

from redis import Redis

from petiole.tasks.stores.clock import Clock
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.scripts import load_script

CircuitState: TypeAlias = Literal["closed", "open", "half_open"]

CircuitOutcome: TypeAlias = Literal["succeeded", "failed", "rejected", "not_sent"]
"""Outcome of a call. rejected: the dependency reported an error of the caller. not_sent: the call was not sent."""

CircuitTransition: TypeAlias = Literal["", "opened", "reopened", "half_opened", "closed"]


@dataclass(frozen=True, slots=True)
class CircuitThresholds:
    """When a circuit opens and for how long; `lease` limits a probe. `rate` applies from `min_calls` in a window on."""

    failures: int
    reset_timeout: timedelta
    lease: timedelta
    rate: float | None = None
    window: timedelta = timedelta(minutes=1)
    min_calls: int = 20


@dataclass(frozen=True, slots=True)
class Permit:
    """Permission to call in `epoch`; None: denied, ask again after `wait`."""

    epoch: int | None
    wait: timedelta = timedelta(0)
    transition: CircuitTransition = ""


@dataclass(frozen=True, slots=True)
class CircuitChange:
    """State of a circuit after a call, and the transition that this call caused ('': none).

    `wait` is the time until another call may be permitted, if the circuit is not closed.
    """

    transition: CircuitTransition
    epoch: int
    failures: int
    wait: timedelta


@dataclass(frozen=True, slots=True)
class Circuit:
    """A circuit as read. `due` is the time of the next probe or the end of its lease; None if it was opened by hand."""

    name: str
    state: CircuitState
    epoch: int
    failures: int
    since: datetime
    due: datetime | None
    error: str
    by: str


class Circuits:
    """Circuits by name."""

    def __init__(self, client: Redis, keys: Keys, clock: Clock) -> None:
        self._client = client
        self._keys = keys
        self._clock = clock
        self._request_permit = client.register_script(load_script("request_permit"))
        self._record_outcome = client.register_script(load_script("record_call_outcome"))
        self._set = client.register_script(load_script("force_circuit_state"))

    def request_permit(self, name: str, thresholds: CircuitThresholds) -> Permit:
        """Request permission to call a dependency."""
        arguments: list[str | int] = [
            name,
            _milliseconds(thresholds.reset_timeout),
            _milliseconds(thresholds.lease),
            self._clock.ahead_ms,
        ]
        answer: Any = self._request_permit(keys=[self._keys.circuit(name), self._keys.circuits], args=arguments)
        if answer[0] == "denied":
            return Permit(None, timedelta(milliseconds=int(answer[1])))
        return Permit(int(answer[1]), transition=answer[2])

    def record_outcome(
        self,
        name: str,
        thresholds: CircuitThresholds,
        epoch: int,
        outcome: CircuitOutcome,
        *,
        retry_after: timedelta = timedelta(0),
        error: str = "",
        by: str = "",
    ) -> CircuitChange:
        """Record the outcome of a call of an epoch; `retry_after` is the wait that the dependency asked for."""
        arguments: list[str | int | float] = [
            epoch,
            outcome,
            thresholds.failures,
            _milliseconds(thresholds.reset_timeout),
            "" if thresholds.rate is None else thresholds.rate,
            _milliseconds(thresholds.window),
            thresholds.min_calls,
            _milliseconds(retry_after),
            error,
            by,
            self._clock.ahead_ms,
        ]
        answer: Any = self._record_outcome(
            keys=[self._keys.circuit(name), self._keys.circuit_window(name)], args=arguments
        )
        change, now_epoch, failures, wait_ms = answer
        return CircuitChange(change, int(now_epoch), int(failures), timedelta(milliseconds=int(wait_ms)))

    def set(
        self, name: str, state: CircuitState, *, probe_after: timedelta | None, error: str, by: str
    ) -> CircuitChange:
        """Open or close a circuit by hand; without `probe_after` it stays open until it is closed."""
        probe = "" if probe_after is None else _milliseconds(probe_after)
        answer: Any = self._set(
            keys=[self._keys.circuit(name), self._keys.circuit_window(name)],
            args=[state, probe, error, by, self._clock.ahead_ms],
        )
        is_change, epoch = answer
        change: CircuitTransition = "" if not is_change else "closed" if state == "closed" else "opened"
        return CircuitChange(change, int(epoch), 0, probe_after or timedelta(0))

    def names(self) -> list[str]:
        """List all dependencies ever called."""
        names: Any = self._client.smembers(self._keys.circuits)
        return sorted(names)

    def all(self) -> Iterator[Circuit]:
        """Read all circuits, by name."""
        for name in self.names():
            facts: Any = self._client.hgetall(self._keys.circuit(name))
            if facts:
                yield _parse_circuit(name, facts)


def _parse_circuit(name: str, facts: dict[str, str]) -> Circuit:
    return Circuit(
        name=name,
        state=facts["state"],  # type: ignore[arg-type]  # the scripts write no other
        epoch=int(facts["epoch"]),
        failures=int(facts["failures"]),
        since=_from_milliseconds(facts["since_ms"]),
        due=_from_milliseconds(facts["due_ms"]) if "due_ms" in facts else None,
        error=facts.get("error", ""),
        by=facts.get("by", ""),
    )


def _from_milliseconds(milliseconds: str) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1_000, UTC)


def _milliseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1_000)
