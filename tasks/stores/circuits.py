"""Circuits: whether what agents depend on may be called, one circuit for each dependency, shared by all workers.

Promise: a circuit opens once however many calls fail at once, has one probe under way at a time in the whole cluster,
and no call of an earlier epoch changes it. All times are the server's. See request_permit.lua and record_call_outcome.lua.
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
"""How a call ended: `answered` was the caller's mistake, as the dependency said; `unreached` never got there."""

CircuitTransition: TypeAlias = Literal["", "opened", "reopened", "half_opened", "closed"]


@dataclass(frozen=True, slots=True)
class CircuitThresholds:
    """What opens a circuit, how long for, and how long a probe may take. `rate` counts from `least_calls` on."""

    failures: int
    reset_timeout: timedelta
    lease: timedelta
    rate: float | None = None
    window: timedelta = timedelta(minutes=1)
    min_calls: int = 20


@dataclass(frozen=True, slots=True)
class Permit:
    """What a caller was told: call in that epoch, or, where there is none, wait."""

    epoch: int | None
    wait: timedelta = timedelta(0)
    transition: CircuitTransition = ""


@dataclass(frozen=True, slots=True)
class CircuitChange:
    """What became of a circuit: the change that this call made, if any, and how it stands after it.

    `wait` is until it may be worth another call, where it is not closed.
    """

    transition: CircuitTransition
    epoch: int
    failures: int
    wait: timedelta


@dataclass(frozen=True, slots=True)
class Circuit:
    """A circuit as of now. `due` is the next probe's time, or the end of its lease; None for one opened by hand."""

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
        self._enter = client.register_script(load_script("request_permit"))
        self._leave = client.register_script(load_script("record_call_outcome"))
        self._set = client.register_script(load_script("force_circuit_state"))

    def request_permit(self, name: str, thresholds: CircuitThresholds) -> Permit:
        """Ask whether the dependency may be called."""
        said: list[str | int] = [
            name,
            _milliseconds(thresholds.reset_timeout),
            _milliseconds(thresholds.lease),
            self._clock.ahead_ms,
        ]
        answer: Any = self._enter(keys=[self._keys.circuit(name), self._keys.circuits], args=said)
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
        """Note how a call ended that began in that epoch; `retry_after` is for how long the dependency asks that."""
        said: list[str | int | float] = [
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
        answer: Any = self._leave(keys=[self._keys.circuit(name), self._keys.circuit_window(name)], args=said)
        change, now_epoch, failures, wait_ms = answer
        return CircuitChange(change, int(now_epoch), int(failures), timedelta(milliseconds=int(wait_ms)))

    def set(
        self, name: str, state: CircuitState, *, probe_after: timedelta | None, error: str, by: str
    ) -> CircuitChange:
        """Open or close a circuit by hand; without `probe_after`, an open one stays open until it is closed."""
        probe = "" if probe_after is None else _milliseconds(probe_after)
        answer: Any = self._set(
            keys=[self._keys.circuit(name), self._keys.circuit_window(name)],
            args=[state, probe, error, by, self._clock.ahead_ms],
        )
        is_change, epoch = answer
        change: CircuitTransition = "" if not is_change else "closed" if state == "closed" else "opened"
        return CircuitChange(change, int(epoch), 0, probe_after or timedelta(0))

    def names(self) -> list[str]:
        """List the dependencies that were ever called."""
        names: Any = self._client.smembers(self._keys.circuits)
        return sorted(names)

    def all(self) -> Iterator[Circuit]:
        """Read every circuit, by name."""
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
