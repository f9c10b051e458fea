"""Delivery waits: why each delivery waited for another attempt, and for how long, for whoever traces it later.

The end of a delivery that was not handled is kept as its last wait.

Promise: nothing depends on a wait that could not be recorded. A delivery keeps its last MAX_WAITS waits, as long as the
history keeps its event. Waits for the same thing, one after another, are kept as one, because a breaker that is open
for hours defers every delivery many times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict
from redis import Redis

from petiole.tasks.stores.keys import Keys

MAX_WAITS = 20

WaitReason: TypeAlias = Literal["retry", "breaker", "budget", "deferred"]
"""Why a delivery waits for another attempt.

    retry       the handler failed
    breaker     the circuit breaker of a dependency is open
    budget      the rate limit of an account is reached, or the provider asked to wait
    deferred    the handler asked for it (RetryLater, `later`)
"""


DeliveryEnd: TypeAlias = Literal["expired", "aborted", "dead_lettered"]
"""How a delivery ended that was not handled."""


class DeliveryWait(BaseModel):
    """A wait between two attempts, or an end. Times are in ms since 1970, by the server's clock.

    Attributes:
        reason: why it waited, or how it ended.
        began_ms: when the attempt before began; None if that is unknown.
        at_ms: when that attempt ended.
        due_ms: when the next attempt was due; of several waits, after the last.
        times: how many waits for the same subject this is, one after another.
        subject: the dependency or the account that it waited for; empty for others.
        worker: who made the attempt.
        error_type: the class of its error.
        error: the text of its error.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    reason: WaitReason | DeliveryEnd
    began_ms: int | None = None
    at_ms: int
    due_ms: int
    times: int = 1
    subject: str = ""
    worker: str = ""
    error_type: str = ""
    error: str = ""


class DeliveryWaits:
    """Waits by delivery."""

    def __init__(self, client: Redis, keys: Keys, age: timedelta) -> None:
        self._client = client
        self._keys = keys
        self._age = age

    def add(self, delivery_id: str, wait: DeliveryWait) -> None:
        """Record a wait. Only the worker that has the delivery calls it."""
        key = self._keys.delivery_waits(delivery_id)
        last: Any = self._client.lindex(key, -1)
        merged = last and _merge(DeliveryWait.model_validate_json(last), wait)
        with self._client.pipeline() as pipeline:
            if merged:
                pipeline.lset(key, -1, merged.model_dump_json())
            else:
                pipeline.rpush(key, wait.model_dump_json())
            pipeline.ltrim(key, -MAX_WAITS, -1)
            pipeline.pexpire(key, self._age)
            pipeline.execute()

    def read(self, delivery_ids: Sequence[str]) -> Mapping[str, tuple[DeliveryWait, ...]]:
        """Read the waits of deliveries, oldest first; those that never waited are left out."""
        with self._client.pipeline(transaction=False) as pipeline:
            for delivery_id in delivery_ids:
                pipeline.lrange(self._keys.delivery_waits(delivery_id), 0, -1)
            found = pipeline.execute()
        rows = zip(delivery_ids, found, strict=True)
        return {
            delivery_id: tuple(DeliveryWait.model_validate_json(text) for text in texts)
            for delivery_id, texts in rows
            if texts
        }


def _merge(last: DeliveryWait, wait: DeliveryWait) -> DeliveryWait | None:
    """Join two waits for the same thing; None if they are not. Failures stay apart: each has an error of its own."""
    if wait.reason == "retry" or (last.reason, last.subject) != (wait.reason, wait.subject):
        return None
    return last.model_copy(update={"due_ms": wait.due_ms, "times": last.times + 1, "error": wait.error})
