"""Effects: what was done to the world outside, once for each key.

Promise: of all that begin one effect, in however many processes, one is told to go on. Once it is done, everybody gets
its outcome, for as long as `age`. One that was begun and not done is known as such.
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
    """What was met: `begun` tells to go on; `done` has the outcome; the other two were begun by another at `since`."""

    state: Literal["started", "done", "in_progress", "unfinished"]
    outcome: str = ""
    since: datetime | None = None


class IdempotencyRecords:
    """Effects by function and key."""

    def __init__(self, client: Redis, keys: Keys, age: timedelta) -> None:
        self._client = client
        self._keys = keys
        self._age = age
        self._begin = client.register_script(load_script("begin_operation"))
        self._finish = client.register_script(load_script("finish_operation"))
        self._abandon = client.register_script(load_script("release_operation"))

    def begin(self, name: str, *, token: str, owner: str, limit: timedelta, repeats_unfinished: bool) -> BeginResult:
        """Begin an effect, unless it was begun. `repeats` begins what is unfinished anew.

        It is unfinished where it was begun longer ago than the limit, or by the same owner ('' is nobody's).
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
        """Note that an effect is done; returns its outcome, which is that of whoever was first."""
        return str(self._finish(keys=[self._keys.idempotency_record(name)], args=[outcome, _milliseconds(self._age)]))

    def release(self, name: str, token: str) -> None:
        """Let an effect that was begun with that token be begun anew; one that is done stays."""
        self._abandon(keys=[self._keys.idempotency_record(name)], args=[token])

    def forget(self, name: str) -> bool:
        """Let an effect be begun anew, done or not; returns whether it was known."""
        return bool(self._client.delete(self._keys.idempotency_record(name)))


def _milliseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1_000)
