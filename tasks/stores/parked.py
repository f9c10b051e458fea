"""Parked deliveries: those that no worker could run which took them, and that another version of a worker can run.

They need a handler, an event type, or a newer version of one. They wait outside their queue, so that no worker takes
them again in vain, until a worker that has what they need takes them.

Promise: parking moves a delivery in one step, so it is in one place at every moment. Its message group does not
advance, so an ordered stream keeps its order.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from redis import Redis

from petiole.events import clock
from petiole.tasks.stores.delayed_messages import DelayedMessage
from petiole.tasks.stores.deliveries import PRIORITY_STEPS
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.publications import Lease
from petiole.tasks.stores.scripts import Script

RELEASED_PER_CALL = 500
"""Deliveries that one call releases; the server serves nobody else during it."""

NeedKind = Literal["handler", "type", "version"]
ParkResult = Literal["parked", "lease_lost", "full"]


@dataclass(frozen=True, slots=True)
class Need:
    """What a parked delivery of a queue needs: a handler, an event type, or a version of an event type."""

    queue: str
    kind: NeedKind
    name: str
    version: int = 0

    @property
    def key(self) -> str:
        """The stored name. None of its parts has a colon."""
        version = f":{self.version}" if self.kind == "version" else ""
        return f"{self.queue}:{self.kind}:{self.name}{version}"

    @classmethod
    def parse(cls, key: str) -> Need:
        """Parse a stored name."""
        queue, kind, name, *version = key.split(":")
        return cls(queue, kind, name, int(version[0]) if version else 0)  # type: ignore[arg-type]  # written by `key`

    def __str__(self) -> str:
        match self.kind:
            case "handler":
                return f"the handler {self.name}"
            case "type":
                return f"the event type {self.name}"
        return f"version {self.version} of the event type {self.name}"


@dataclass(frozen=True, slots=True)
class ParkedDeliveries:
    """The deliveries that need the same: how many there are, why the first was parked, and when."""

    need: Need
    count: int
    reason: str
    since: datetime


class Parked:
    """The parked deliveries, by what they need."""

    def __init__(self, client: Redis, keys: Keys, limit: int) -> None:
        self._keys = keys
        self._limit = limit
        shared = ("history", "deliveries", "count_parked")
        self._park = Script(client, *shared, "park")
        self._read = Script(client, *shared, "read_parked")
        self._release = Script(client, *shared, "delay_message", "release_parked")

    def park(self, need: Need, reason: str, lease: Lease) -> ParkResult:
        """Park a leased delivery. `full`: as many as the limit allows are parked for the need."""
        result: ParkResult = self._park([*self._arguments(need, reason), lease.consumer, lease.tag])
        return result

    def park_message(self, need: Need, reason: str, message: DelayedMessage) -> ParkResult:
        """Park a message of another broker; it is sent again when it is released. As `park`."""
        result: ParkResult = self._park(
            [*self._arguments(need, reason), "", "", message.id, message.value, message.due_ms]
        )
        return result

    def read(self) -> list[ParkedDeliveries]:
        """Read what is parked, by need. Forgets needs of which nothing is parked any more."""
        answer = self._read([self._keys.prefix])
        rows = zip(answer[::3], answer[1::3], answer[2::3], strict=True)
        return sorted(
            (_describe(key, json.loads(description), int(count)) for key, description, count in rows),
            key=lambda parked: parked.need.key,
        )

    def release(self, need: Need, count: int = RELEASED_PER_CALL) -> int:
        """Return parked deliveries to their queue, the oldest first; returns how many."""
        return int(self._release([self._keys.prefix, need.key, count]))

    def queue_lists(self, queue: str) -> list[str]:
        """Return the lists of what is parked of a queue."""
        needs = [parked.need for parked in self.read() if parked.need.queue == queue]
        return [f"{self.lists(need)}:{step}" for need in needs for step in PRIORITY_STEPS]

    def lists(self, need: Need) -> str:
        """Return the name of a need's lists, without the priority step."""
        return f"{self._keys.parked}:{need.key}"

    def _arguments(self, need: Need, reason: str) -> list[str | int]:
        description = json.dumps({"reason": reason, "since": clock.now().timestamp()})
        return [self._keys.prefix, need.key, description, self._limit]


def _describe(key: str, description: dict[str, str | float], count: int) -> ParkedDeliveries:
    since = datetime.fromtimestamp(float(description["since"]), UTC)
    return ParkedDeliveries(Need.parse(key), count, str(description["reason"]), since)
