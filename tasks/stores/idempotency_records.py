"""Idempotency records: operations with effects outside of the bus, once for each key.

Promise: of all processes that begin an operation, one executes it. Once it is done, every caller gets its outcome for
`age`. An operation that was started and not finished is reported as such.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from redis import Redis

from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.scripts import load_script


@dataclass(frozen=True, slots=True)
class BeginResult:
    """State of an operation at `begin`.

    started: the caller executes it. done: `outcome` has its result. in_progress, unfinished: another caller started it
    at `since`.
    """

    state: Literal["started", "done", "in_progress", "unfinished"]
    outcome: str = ""
    since: datetime | None = None


class IdempotencyRecords:
    """Operations by function and key."""

    def __init__(self, client: Redis, keys: Keys, age: timedelta) -> None:
        self._client = client
        self._keys = keys
        self._age = age
        self._begin = client.register_script(load_script("begin_operation"))
        self._finish = client.register_script(load_script("finish_operation"))
        self._release = client.register_script(load_script("release_operation"))

    def begin(self, name: str, *, token: str, owner: str, limit: timedelta, repeats_unfinished: bool) -> BeginResult:
        """Start an operation, unless it was started before.

        It counts as unfinished if it was started longer than `limit` ago, or by the same owner ('' for no owner).
        `repeats_unfinished` starts it again then.
        """
        arguments: list[str | int] = [
            token,
            owner,
            _milliseconds(limit),
            _milliseconds(self._age),
            int(repeats_unfinished),
        ]
        state, *facts = self._begin(keys=[self._keys.idempotency_record(name)], args=list(arguments))
        if state == "done":
            return BeginResult(state, outcome=facts[0])
        return BeginResult(state, since=datetime.fromtimestamp(int(facts[0]) / 1_000, UTC) if facts else None)

    def finish(self, name: str, outcome: str) -> str:
        """Store the outcome of an operation; returns the one that was stored first."""
        return str(self._finish(keys=[self._keys.idempotency_record(name)], args=[outcome, _milliseconds(self._age)]))

    def release(self, name: str, token: str) -> None:
        """Delete an operation that was started with this token, unless it is done."""
        self._release(keys=[self._keys.idempotency_record(name)], args=[token])

    def forget(self, name: str) -> bool:
        """Delete an operation, done or not; returns whether it existed."""
        return bool(self._client.delete(self._keys.idempotency_record(name)))


def _milliseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1_000)
