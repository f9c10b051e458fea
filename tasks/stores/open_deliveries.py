"""Open deliveries: where the deliveries of given events stand that have not ended, for `petiole trace`.

Only for our own transport. Other brokers do not show what waits in their queues.

Cost: the entries of these queues, of all leases, of the delayed messages and of the message groups are read, at most
MAX_ENTRIES of each list. It is for an operator, and not for the path of an event.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from redis import Redis

from petiole.tasks.stores.deliveries import PRIORITY_STEPS, QueueEntry
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.parked import Parked

MAX_ENTRIES = 10_000
"""Entries read of a list: its next ones."""

Place = Literal["queued", "leased", "delayed", "grouped", "parked"]
"""Where a delivery stands. leased: a worker has fetched it. grouped: it waits for others of its message group."""


@dataclass(frozen=True, slots=True)
class OpenDelivery:
    """A delivery that has not ended. `due_ms` is when a delayed one is moved to its queue, in ms since 1970."""

    place: Place
    entry: QueueEntry
    due_ms: int | None = None

    @property
    def history_entry(self) -> str:
        """The entry id of its event in the history; empty if the entry has the event itself."""
        return self.entry.reference.partition("/")[2]


class OpenDeliveries:
    """The deliveries that have not ended, on our own transport."""

    def __init__(self, client: Redis, keys: Keys, parked: Parked) -> None:
        self._client: Any = client  # the stubs allow coroutines as well
        self._keys = keys
        self._parked = parked

    def find(self, history_entries: Collection[str], queues: Collection[str]) -> list[OpenDelivery]:
        """Find the open deliveries of events, by their entry ids in the history, in these queues."""
        wanted = frozenset(history_entries)
        return [each for each in self._read(queues) if each.history_entry in wanted]

    def _read(self, queues: Collection[str]) -> Iterator[OpenDelivery]:
        for queue in queues:
            for step in PRIORITY_STEPS:
                yield from self._read_list("queued", f"{self._keys.queue(queue)}:{step}")
            for name in self._parked.queue_lists(queue):
                yield from self._read_list("parked", name)
        yield from self._read_leases()
        yield from self._read_delayed()
        for name in self._client.scan_iter(self._keys.message_group("*"), count=1_000):
            for text in self._client.lrange(name, 0, MAX_ENTRIES):
                yield from _parse("grouped", text.partition("\n")[2])

    def _read_list(self, place: Place, name: str) -> Iterator[OpenDelivery]:
        for text in self._client.lrange(name, -MAX_ENTRIES, -1):
            yield from _parse(place, text)

    def _read_leases(self) -> Iterator[OpenDelivery]:
        for consumer in self._client.zrange(self._keys.consumers, 0, -1):
            for leased in self._client.hvals(self._keys.consumer(consumer)):
                yield from _parse("leased", leased.partition("\n")[2])

    def _read_delayed(self) -> Iterator[OpenDelivery]:
        due = dict(self._client.zrange(self._keys.delayed, 0, MAX_ENTRIES, withscores=True))
        values = self._client.hmget(self._keys.delayed_messages, list(due)) if due else []
        for due_ms, value in zip(due.values(), values, strict=True):
            queue_list, _, text = (value or "\n").partition("\n")[2].partition("\n")
            if queue_list.startswith(self._keys.queue("")):
                yield from _parse("delayed", text, int(due_ms))


def _parse(place: Place, text: str, due_ms: int | None = None) -> Iterator[OpenDelivery]:
    """Parse an entry; a list may also have messages of other Celery clients, which are skipped."""
    head = text.split("\n", 4)
    if len(head) == 5 and head[1]:  # noqa: PLR2004 - the parts of an entry (scripts/deliveries.lua)
        yield OpenDelivery(place, QueueEntry.parse(text.encode()), due_ms)
