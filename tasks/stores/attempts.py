"""Attempts: the attempts of each unsettled delivery, over all workers.

For messages of other Celery clients and other brokers; the entry of a delivery has its attempts itself.

Promise: an attempt is recorded before its handler starts. An attempt without an outcome counts as a crash of its
worker, unless that worker is alive.

RabbitMQ gives out a message again when its channel closes, while the handler may still run: after a lost connection,
and after its `consumer_timeout`. So an attempt holds a lease here, which its worker renews; a copy waits meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from redis import Redis

from petiole.events import clock
from petiole.events.dead_letter import FailedAttempt
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.scripts import load_script


@dataclass(frozen=True, slots=True)
class AttemptHistory:
    """Earlier attempts of a delivery, and whether another one may start."""

    earlier: tuple[FailedAttempt, ...] = ()
    is_settled: bool = False
    is_aborted: bool = False
    is_poison: bool = False
    running_for: timedelta | None = None
    """How long the lease of another attempt lasts, which runs."""

    @property
    def number(self) -> int:
        """Number of the attempt, from 1, without those that crashed."""
        return 1 + sum(attempt.error_type is not None for attempt in self.earlier)

    @property
    def crashes(self) -> int:
        """How many workers the delivery crashed."""
        return sum(attempt.error_type is None for attempt in self.earlier)


class Attempts:
    """Attempts of deliveries that are not settled."""

    def __init__(self, client: Redis, keys: Keys, age: timedelta) -> None:
        self._client = client
        self._keys = keys
        self._age_ms = int(age.total_seconds() * 1_000)
        self._begin = client.register_script(load_script("begin_attempt"))

    def begin(
        self,
        delivery_id: str,
        worker: str,
        *,
        consumer: str = "",
        max_crashes: int = 3,
        abortable: tuple[str, str] | None = None,
        lease: timedelta | None = None,
    ) -> AttemptHistory:
        """Record that an attempt starts, unless the delivery is settled, aborted, or crashed `max_crashes` workers.

        `consumer` is the id of the consumer that leases the message, if the broker has leases; otherwise `lease` is how
        long the attempt runs without `renew`. `abortable` is agent and flow, if the flow can be aborted.
        """
        attempt = {"at": clock.now().isoformat(), "worker": worker, "consumer": consumer}
        answer, *earlier = self._begin(
            keys=[
                self._keys.inbox(delivery_id),
                self._keys.attempts(delivery_id),
                self._keys.consumers if consumer else "",
                self._keys.aborted(*abortable) if abortable else "",
                self._keys.running(delivery_id) if lease else "",
                self._keys.cancelled(abortable[1]) if abortable else "",
            ],
            args=[json.dumps(attempt), consumer, max_crashes, self._age_ms, _milliseconds(lease)],
        )
        if answer == "already_settled":
            return AttemptHistory(is_settled=True)
        if answer == "aborted":
            return AttemptHistory(is_aborted=True)
        if answer == "running":
            return AttemptHistory(running_for=timedelta(milliseconds=int(earlier[0])))
        return AttemptHistory(tuple(_parse_attempt(text) for text in earlier), is_poison=answer == "poison")

    def renew(self, delivery_ids: Collection[str], lease: timedelta) -> None:
        """Renew the leases of attempts that run; those that have ended have none."""
        with self._client.pipeline(transaction=False) as pipeline:
            for delivery_id in delivery_ids:
                pipeline.pexpire(self._keys.running(delivery_id), _milliseconds(lease))
            pipeline.execute()

    def record_crash(self, delivery_id: str) -> None:
        """Record that the last attempt crashed although its worker is alive, because a pool process died."""
        self._client.delete(self._keys.running(delivery_id))
        key = self._keys.attempts(delivery_id)
        last: Any = self._client.lrange(key, -1, -1)
        if last:
            self._client.lset(key, -1, json.dumps(json.loads(last[0]) | {"is_crashed": True}))

    def discard_last(self, delivery_id: str) -> None:
        """Delete the last attempt, which must not count."""
        self._client.delete(self._keys.running(delivery_id))
        self._client.rpop(self._keys.attempts(delivery_id))

    def read(self, delivery_id: str) -> tuple[FailedAttempt, ...]:
        """Read the attempts of an unsettled delivery."""
        texts: Any = self._client.lrange(self._keys.attempts(delivery_id), 0, -1)
        return tuple(_parse_attempt(text) for text in texts)


def _milliseconds(lease: timedelta | None) -> int:
    return int(lease.total_seconds() * 1_000) if lease else 0


def _parse_attempt(text: str) -> FailedAttempt:
    attempt = json.loads(text)
    return FailedAttempt(
        at=attempt["at"], worker=attempt["worker"], error_type=attempt.get("error_type"), error=attempt.get("error")
    )
