"""Delayed messages: retries, deferred deliveries and events with a later publication time.

Promise: a message is sent once it is due, also after a crash. On a Redis broker it moves to its queue in one step.
On other brokers a worker claims it, sends it and confirms; without the confirmation it is due again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from redis import Redis

from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.scripts import load_script

MAX_MOVED = 200
"""Messages moved in one step, during which Redis serves nobody else."""

CLAIM_TIMEOUT = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class DelayedMessage:
    """A message with its due time.

    If the broker is this same Redis, `list_key` is the list of its queue, `queue` the key that wakes a consumer, and
    `message` may be a queue entry. Each id waits once: `replaces` tells whether a message replaces the one that waits
    under its id.
    """

    id: str
    due: datetime
    queue: str
    list_key: str
    message: str
    replaces: bool = True

    @property
    def due_ms(self) -> int:
        """Due time in ms since 1970."""
        return int(self.due.timestamp() * 1_000)

    @property
    def value(self) -> str:
        """Stored form, separated by line feeds; queue and list have none."""
        return f"{self.queue}\n{self.list_key}\n{self.message}"


@dataclass(frozen=True, slots=True)
class Claimed:
    """A due message, and the end of its claim in ms since 1970."""

    id: str
    queue: str
    message: str
    claimed_until_ms: int


class DelayedMessages:
    """Messages by due time."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._all_keys = [keys.delayed, keys.delayed_messages]
        self._put = client.register_script(load_script("delay_message") + load_script("put_delayed_message"))
        self._send = client.register_script(load_script("send_due"))
        self._claim = client.register_script(load_script("claim_due"))
        self._confirm = client.register_script(load_script("confirm_claimed"))

    def put(self, message: DelayedMessage) -> None:
        """Store a message until it is due."""
        self._put(keys=self._all_keys, args=[message.id, message.due_ms, message.value, int(message.replaces)])

    def seconds_until_due(self) -> float:
        """Return when the next message is due, by the server's clock: 0 or less if one is, infinity if none waits."""
        first: Any = self._client.zrange(self._all_keys[0], 0, 0, withscores=True)
        if not first:
            return math.inf
        seconds, microseconds = self._client.time()
        return float(first[0][1]) / 1_000 - (seconds + microseconds / 1_000_000)

    def move_due(self) -> int:
        """Move due messages to their queues if the broker is this same Redis; returns how many."""
        return int(self._send(keys=self._all_keys, args=[MAX_MOVED]))

    def claim_due(self, *, ahead: timedelta = timedelta(0)) -> list[Claimed]:
        """Claim due messages for sending; the claim ends after CLAIM_TIMEOUT unless it is confirmed.

        `ahead` claims messages before their due time, for tests.
        """
        claims = self._claim(
            keys=self._all_keys,
            args=[MAX_MOVED, int(CLAIM_TIMEOUT.total_seconds() * 1_000), int(ahead.total_seconds() * 1_000)],
        )
        triples = zip(claims[::3], claims[1::3], claims[2::3], strict=True)
        return [Claimed(id_, *_split_value(value), claimed_until_ms=int(until)) for id_, value, until in triples]

    def confirm_sent(self, claimed: Claimed) -> None:
        """Delete a claimed message that was sent; a newer one under its id stays."""
        self._confirm(keys=self._all_keys, args=[claimed.id, claimed.claimed_until_ms])

    def count(self) -> int:
        """Count the waiting messages."""
        return int(self._client.zcard(self._all_keys[0]))

    def due_times(self) -> dict[str, float]:
        """Read all due times by id, in seconds since 1970."""
        pairs: Any = self._client.zrange(self._all_keys[0], 0, -1, withscores=True)
        return {id_: due_ms / 1_000 for id_, due_ms in pairs}


def _split_value(value: str) -> tuple[str, str]:
    queue, _, message = value.split("\n", 2)
    return queue, message
