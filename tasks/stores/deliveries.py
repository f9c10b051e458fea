"""Deliveries: queue entries, as scripts/deliveries.lua describes them, and the check before a handler starts.

An event is stored once, in the history; an entry refers to it. An entry has its event in `body` if it is a replay of a
dead letter, if it came as a message of another Celery client, or if the history has the event without its secrets.

Promise: a handler does not start if its consumer has lost the lease, or if the flow was aborted for its agent, or
cancelled. A delivery whose consumer was lost before is marked as begun, so that another loss counts as a crash.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal

from redis import Redis

from petiole.events.event import MAX_PRIORITY
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.publications import Lease
from petiole.tasks.stores.scripts import Script

LeaseCheck = Literal["started", "lease_lost", "aborted"]

PRIORITY_STEPS = (0, 3, 6, 9)
"""The priority steps of a queue's lists; 0 is fetched first."""

MESSAGE_GROUP_HEADER = "petiole_message_group"
"""The header of a task's message with the message group of an ordered delivery."""

REPLAY_HEADER = "petiole_replay"
"""The header with the replay's id of a replayed delivery."""

DEAD_LETTER_HEADER = "petiole_dead_letter"
"""The header with the dead letter's id of a replayed dead letter."""

ENTRY_HEADER = "petiole_entry"
"""The header with the queue entry of a delivery, without its body, while a worker has it."""


def queue_list(keys: Keys, queue: str, priority: int) -> str:
    """Return the list of a queue's deliveries of that priority (ours: 9 is first)."""
    return f"{keys.queue(queue)}:{PRIORITY_STEPS[(MAX_PRIORITY - priority) // 3]}"


@dataclass(frozen=True)
class QueueEntry:
    """A delivery in its queue.

    Attributes:
        reference: block and entry id of the event in the history, `<block>/<entry id>`; empty with a body.
        subscription: the subscription's name; empty for a message of another Celery client, which is the body.
        crashes: how often the delivery crashed a process; None if no consumer was lost with it.
        options: `id` of the delivery if it is not derived from the event, `group`, `replay`, `letter`,
            `attempts` (the failed ones), `due` (when it was to be queued again, in ms), `body` if it has a body beside
            its reference.
        body: the event's JSON, or the message; it comes before the event that `reference` names.
    """

    reference: str
    subscription: str
    crashes: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    body: bytes = b""

    @classmethod
    def parse(cls, text: bytes) -> QueueEntry:
        """Parse an entry. Raises ValueError."""
        reference, subscription, crashes, options, body = text.split(b"\n", 4)
        return cls(
            reference.decode(),
            subscription.decode(),
            int(crashes) if crashes else None,
            json.loads(options) if options.startswith(b"{") else {},
            body,
        )

    @property
    def has_own_event(self) -> bool:
        """Whether the event stands in the entry, also while a worker has the entry without its body."""
        return not self.reference or "body" in self.options

    @property
    def published_ms(self) -> int:
        """When the event was published, or the delivery replayed, in ms since 1970; 0 if the entry does not tell."""
        return int(self.reference.partition("/")[2].partition("-")[0] or self.options.get("due") or 0)

    def with_own_event(self, text: str) -> QueueEntry:
        """Return the entry with an event that the history has otherwise: without its secrets."""
        return replace(self, options={**self.options, "body": 1}, body=text.encode())

    @cached_property
    def head(self) -> str:
        """The entry without its body."""
        options = json.dumps(self.options) if self.options else ""
        crashes = "" if self.crashes is None else self.crashes
        return f"{self.reference}\n{self.subscription}\n{crashes}\n{options}\n"

    @property
    def text(self) -> str:
        """The entry as it is queued."""
        return self.head + self.body.decode()


class Deliveries:
    """The queued and the leased deliveries."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._begin = Script(client, "begin_delivery")

    def begin(self, lease: Lease, *, is_marked: bool, abortable: tuple[str, str] | None) -> LeaseCheck:
        """Check a leased delivery before its handler starts.

        Args:
            lease: the lease of the delivery.
            is_marked: mark the delivery as begun.
            abortable: agent and flow, if the flow can be aborted.
        """
        marks = (self._keys.aborted(*abortable), self._keys.cancelled(abortable[1])) if abortable else ("", "")
        answer: LeaseCheck = self._begin((self._keys.consumer(lease.consumer), lease.tag, int(is_marked), *marks))
        return answer

    def depth(self, queue: str) -> int:
        """Count the deliveries in a queue, without those that wait in message groups."""
        return sum(int(self._client.llen(name)) for name in self._lists(queue))

    def are_empty(self, queues: Iterable[str]) -> bool:
        """Return whether no delivery waits in any of these queues."""
        lists = [name for queue in queues for name in self._lists(queue)]
        return not (lists and self._client.exists(*lists))

    def depths(self, queues: Sequence[str]) -> dict[str, int]:
        """Count the deliveries of many queues in one round trip."""
        with self._client.pipeline(transaction=False) as pipe:
            for queue in queues:
                for name in self._lists(queue):
                    pipe.llen(name)
            lengths = iter(pipe.execute())
        return {queue: sum(next(lengths) for _ in PRIORITY_STEPS) for queue in queues}

    def oldest(self, queues: Sequence[str]) -> dict[str, datetime]:
        """Return since when the oldest delivery in each queue that has one has waited there, in one round trip."""
        with self._client.pipeline(transaction=False) as pipe:
            for queue in queues:
                for name in self._lists(queue):
                    pipe.lrange(name, -1, -1)
            ends = iter(pipe.execute())
        found: dict[str, datetime] = {}
        for queue in queues:
            times = [_waits_since(entry) for _ in PRIORITY_STEPS for entry in next(ends)]
            if known := [time for time in times if time is not None]:
                found[queue] = min(known)
        return found

    def in_flight(self) -> Counter[str]:
        """Count by queue what consumers have fetched and not settled."""
        consumers: Any = self._client.zrange(self._keys.consumers, 0, -1)
        start = self._keys.queue("")
        counts: Counter[str] = Counter()
        for consumer in consumers:
            leased: Any = self._client.hvals(self._keys.consumer(consumer))
            lists = (text.partition("\n")[0] for text in leased)
            counts.update(name.removeprefix(start).rpartition(":")[0] for name in lists)
        return counts

    def _lists(self, queue: str) -> list[str]:
        return [f"{self._keys.queue(queue)}:{step}" for step in PRIORITY_STEPS]


def _waits_since(text: str) -> datetime | None:
    """Return when a delivery was due again, or when its event was published; None for anything else."""
    try:
        entry = QueueEntry.parse(text.encode())
        since_ms = entry.options.get("due") or entry.published_ms
        return datetime.fromtimestamp(int(since_ms) / 1_000, UTC) if since_ms else None
    except ValueError:
        return None
