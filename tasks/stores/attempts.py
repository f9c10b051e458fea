"""Attempts: the runs of each delivery's handler that did not succeed, counted for all workers together.

Promise: a run is noted before its handler begins. One that ended says so; of one that did not, the worker died, unless
that worker is seen to be alive. The first run of a delivery may be noted as taken, by the step that takes its message
(tasks/transport/delivery_log.py). Whether that one began nobody knows: it counts only where one death more is missing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from redis import Redis

from petiole.events.dead_letter import FailedAttempt
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.scripts import load_script


@dataclass(frozen=True, slots=True)
class AttemptHistory:
    """A run that may begin, and what became of those before it."""

    earlier: tuple[FailedAttempt, ...] = ()
    is_settled: bool = False
    is_aborted: bool = False
    is_poison: bool = False

    @property
    def number(self) -> int:
        """The number of the run, from 1; runs that a worker died of are not counted."""
        return 1 + sum(each.error_type is not None for each in self.earlier)

    @property
    def crashes(self) -> int:
        """How many workers died of the delivery."""
        return sum(each.error_type is None for each in self.earlier)


class Attempts:
    """The runs of deliveries that are not settled yet."""

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
        consumers_key: str = "",
        max_crashes: int = 3,
        abortable: tuple[str, str] | None = None,
    ) -> AttemptHistory:
        """Note that a run begins, unless its delivery is settled or aborted, or as many workers died of it as may.

        `holder` is who holds the message, where the broker knows; `consumers_key` its record of who is alive; `work`
        the
        agent and the flow that may have been aborted.
        """
        attempt = {"at": datetime.now(UTC).isoformat(), "worker": worker, "consumer": consumer}
        answer, *noted = self._begin(
            keys=[
                self._keys.inbox(delivery_id),
                self._keys.attempts(delivery_id),
                consumers_key,
                self._keys.aborted(*abortable) if abortable else "",
            ],
            args=[json.dumps(attempt), consumer, max_crashes, self._age_ms],
        )
        if answer == "already_settled":
            return AttemptHistory(is_settled=True)
        if answer == "aborted":
            return AttemptHistory(is_aborted=True)
        return AttemptHistory(tuple(_parse_attempt(text) for text in noted), is_poison=answer == "poison")

    def record_crash(self, delivery_id: str) -> None:
        """Note that whoever ran the delivery last is dead, although its worker lives: a child of its pool."""
        key = self._keys.attempts(delivery_id)
        noted: Any = self._client.lrange(key, -1, -1)
        if noted:
            self._client.lset(key, -1, json.dumps(json.loads(noted[0]) | {"is_crashed": True, "is_fetched": False}))

    def discard_last(self, delivery_id: str) -> None:
        """Forget the run that began last: it ended before it meant anything."""
        self._client.rpop(self._keys.attempts(delivery_id))

    def read(self, delivery_id: str) -> tuple[FailedAttempt, ...]:
        """Read the runs of a delivery that is not settled."""
        noted: Any = self._client.lrange(self._keys.attempts(delivery_id), 0, -1)
        return tuple(_parse_attempt(text) for text in noted)


def _parse_attempt(text: str) -> FailedAttempt:
    noted = json.loads(text)
    return FailedAttempt(
        at=noted["at"], worker=noted["worker"], error_type=noted.get("error_type"), error=noted.get("error")
    )
