"""Delays: messages that wait for their time, in one room for retries and for events that are published later.

Promise: what is put here comes out once its time has come, and is not forgotten by anybody's death: it moves to its
queue in one step, or is lent to who sends it on, and comes out again unless that was done in time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from redis import Redis

from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.scripts import load_script

MAX_MOVED = 200
"""How many leave in one step; the server serves nobody else meanwhile."""

CLAIM_TIMEOUT = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class DelayedMessage:
    """A message and when its time comes. `list_key` is the list of its queue on a broker that is this same Redis.

    An id waits once: a message that waits already is replaced where `replaces`, and stays where not.
    """

    id: str
    due: datetime
    queue: str
    list_key: str
    message: str
    replaces: bool = True

    @property
    def due_ms(self) -> int:
        """The time in ms since 1970."""
        return int(self.due.timestamp() * 1_000)

    @property
    def value(self) -> str:
        """As it is kept: no line end is in the first two."""
        return f"{self.queue}\n{self.list_key}\n{self.message}"


@dataclass(frozen=True, slots=True)
class Claimed:
    """A message that is due, and until when somebody may send it on, in ms since 1970."""

    id: str
    queue: str
    message: str
    claimed_until_ms: int


class DelayedMessages:
    """Messages by when they are due."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._room = [keys.delayed, keys.delayed_messages]
        self._put = client.register_script(load_script("delay_message") + load_script("put_delayed_message"))
        self._move = client.register_script(load_script("send_due"))
        self._lend = client.register_script(load_script("claim_due"))
        self._forget = client.register_script(load_script("confirm_claimed"))

    def put(self, message: DelayedMessage) -> None:
        """Let a message wait."""
        self._put(keys=self._room, args=[message.id, message.due_ms, message.value, int(message.replaces)])

    def move_due(self) -> int:
        """Move what is due to its queues, on a broker that is this same Redis; return how many moved."""
        return int(self._move(keys=self._room, args=[MAX_MOVED]))

    def claim_due(self, *, ahead: timedelta = timedelta(0)) -> list[Claimed]:
        """Lend what is due to a caller that sends it on; `ahead` of time, for tests.

        It is lent to the next one where it is not forgotten within LENT.
        """
        lent = self._lend(
            keys=self._room,
            args=[MAX_MOVED, int(CLAIM_TIMEOUT.total_seconds() * 1_000), int(ahead.total_seconds() * 1_000)],
        )
        threes = zip(lent[::3], lent[1::3], lent[2::3], strict=True)
        return [Claimed(each, *_split_value(value), claimed_until_ms=int(back)) for each, value, back in threes]

    def confirm_sent(self, claimed: Claimed) -> None:
        """Note that what was lent was sent on. What waits under its id by now stays."""
        self._forget(keys=self._room, args=[claimed.id, claimed.claimed_until_ms])

    def count(self) -> int:
        """Count what waits."""
        return int(self._client.zcard(self._room[0]))

    def due_times(self) -> dict[str, float]:
        """Read when everything is due, in seconds since 1970, by id."""
        pairs: Any = self._client.zrange(self._room[0], 0, -1, withscores=True)
        return {each: due_ms / 1_000 for each, due_ms in pairs}


def _split_value(value: str) -> tuple[str, str]:
    queue, _, message = value.split("\n", 2)
    return queue, message
