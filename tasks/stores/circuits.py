"""Circuits: whether what agents depend on may be called, one circuit for each dependency, shared by all workers.

Promise: a circuit opens once however many calls fail at once, has one probe under way at a time in the whole cluster,
and no call of an earlier epoch changes it. All times are the server's. See enter_circuit.lua and leave_circuit.lua.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias

from redis import Redis

from petiole.tasks.stores.clock import Clock
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.scripts import script

State: TypeAlias = Literal["closed", "open", "half_open"]

Ending: TypeAlias = Literal["ok", "failed", "answered", "unreached"]
"""How a call ended: `answered` was the caller's mistake, as the dependency said; `unreached` never got there."""

Change: TypeAlias = Literal["", "opened", "reopened", "half_opened", "closed"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What opens a circuit, how long for, and how long a probe may take. `rate` counts from `least_calls` on."""

    failures: int
    reset: timedelta
    lease: timedelta
    rate: float | None = None
    window: timedelta = timedelta(minutes=1)
    least_calls: int = 20


@dataclass(frozen=True, slots=True)
class Admission:
    """What a caller was told: call in that epoch, or, where there is none, wait."""

    epoch: int | None
    wait: timedelta = timedelta(0)
    change: Change = ""


@dataclass(frozen=True, slots=True)
class Noted:
    """What became of a circuit: the change that this call made, if any, and how it stands after it.

    `wait` is until it may be worth another call, where it is not closed.
    """

    change: Change
    epoch: int
    failures: int
    wait: timedelta


@dataclass(frozen=True, slots=True)
class Circuit:
    """A circuit as of now. `due` is the next probe's time, or the end of its lease; None for one opened by hand."""

    name: str
    state: State
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
        self._enter = client.register_script(script("enter_circuit"))
        self._leave = client.register_script(script("leave_circuit"))
        self._set = client.register_script(script("set_circuit"))

    def enter(self, name: str, limits: Limits) -> Admission:
        """Ask whether the dependency may be called."""
        said: list[str | int] = [name, _ms(limits.reset), _ms(limits.lease), self._clock.ahead_ms]
        answer: Any = self._enter(keys=[self._keys.circuit(name), self._keys.circuits], args=said)
        if answer[0] == "wait":
            return Admission(None, timedelta(milliseconds=int(answer[1])))
        return Admission(int(answer[1]), change=answer[2])

    def leave(
        self,
        name: str,
        limits: Limits,
        epoch: int,
        ending: Ending,
        *,
        left_alone: timedelta = timedelta(0),
        error: str = "",
        by: str = "",
    ) -> Noted:
        """Note how a call ended that began in that epoch; `left_alone` is for how long the dependency asks that."""
        said: list[str | int | float] = [
            epoch,
            ending,
            limits.failures,
            _ms(limits.reset),
            "" if limits.rate is None else limits.rate,
            _ms(limits.window),
            limits.least_calls,
            _ms(left_alone),
            error,
            by,
            self._clock.ahead_ms,
        ]
        answer: Any = self._leave(keys=[self._keys.circuit(name), self._keys.circuit_window(name)], args=said)
        change, now_epoch, failures, wait_ms = answer
        return Noted(change, int(now_epoch), int(failures), timedelta(milliseconds=int(wait_ms)))

    def set(self, name: str, state: State, *, probe_after: timedelta | None, error: str, by: str) -> Noted:
        """Open or close a circuit by hand; without `probe_after`, an open one stays open until it is closed."""
        probe = "" if probe_after is None else _ms(probe_after)
        answer: Any = self._set(
            keys=[self._keys.circuit(name), self._keys.circuit_window(name)],
            args=[state, probe, error, by, self._clock.ahead_ms],
        )
        is_change, epoch = answer
        change: Change = "" if not is_change else "closed" if state == "closed" else "opened"
        return Noted(change, int(epoch), 0, probe_after or timedelta(0))

    def names(self) -> list[str]:
        """List the dependencies that were ever called."""
        names: Any = self._client.smembers(self._keys.circuits)
        return sorted(names)

    def all(self) -> Iterator[Circuit]:
        """Read every circuit, by name."""
        for name in self.names():
            facts: Any = self._client.hgetall(self._keys.circuit(name))
            if facts:
                yield _read(name, facts)


def _read(name: str, facts: dict[str, str]) -> Circuit:
    return Circuit(
        name=name,
        state=facts["state"],  # type: ignore[arg-type]  # the scripts write no other
        epoch=int(facts["epoch"]),
        failures=int(facts["failures"]),
        since=_moment(facts["since_ms"]),
        due=_moment(facts["due_ms"]) if "due_ms" in facts else None,
        error=facts.get("error", ""),
        by=facts.get("by", ""),
    )


def _moment(milliseconds: str) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1_000, UTC)


def _ms(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1_000)
