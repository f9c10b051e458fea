"""History: every published event, in the order of publication, for audit, tracing and replay.

Promise: an event is recorded before its first task is sent, and once. Old events leave by number and by age, when new
ones come; times are those of the recording, by the server's clock.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

from redis import Redis

from petiole.events.errors import PayloadUnreadable, UsageError
from petiole.events.event import Event
from petiole.events.topics import TopicTrie, check_pattern
from petiole.tasks.stores.blobs import Blobs
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.scripts import load_script

PublicationState = Literal["new", "started", "done"]
Entries: TypeAlias = Sequence[tuple[bytes | str | None, Mapping[Any, bytes | str] | None]] | None

HISTORY_START = "0-0"

HISTORY_PAGE_SIZE = 500
"""Events that are read at once."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How many events are kept, in all and per stream, and how long; and how long publish marks are."""

    max_events: int
    max_stream_events: int
    age: timedelta
    deduplication_window: timedelta


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An event as it stands in the history: its place there, and its JSON object.

    `attributes` is the object as it stands there, with a reference where the content is stored elsewhere; whoever
    needs no content asks it, and spares the store.
    """

    entry_id: str
    attributes: Mapping[str, object]
    blobs: Blobs | None = field(default=None, repr=False, compare=False)

    @property
    def topic(self) -> str:
        """The event's topic."""
        return str(self.attributes["event_type"])

    @property
    def recorded_at_ms(self) -> int:
        """When it was recorded, in milliseconds since 1970; one clock for all publishers."""
        return _order(self.entry_id)[0]

    @property
    def document(self) -> Mapping[str, object]:
        """The whole event, fetched where its content is stored elsewhere.

        Raises PayloadUnreadable (payload_missing, payload_altered).
        """
        return self.blobs.restore(self.attributes) if self.blobs else self.attributes

    @property
    def document_or_stub(self) -> Mapping[str, object]:
        """The whole event to look at; of one whose content is gone, what is left."""
        try:
            return self.document
        except PayloadUnreadable:
            return self.attributes


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """Which events of the history: what is left out does not matter. `since` is the first moment, `until` the first
    beyond; a pattern hears what a subscription to it would.
    """

    stream_id: str | None = None
    correlation_id: str | None = None
    pattern: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for a time without a zone, UsageError (invalid_pattern)."""
        if any(moment is not None and moment.tzinfo is None for moment in (self.since, self.until)):
            raise UsageError("a time without a zone may mean any of 38 moments; give it one, such as datetime.now(UTC)")
        if self.pattern is not None:
            check_pattern(self.pattern)

    def matches(self, recorded: RecordedEvent) -> bool:
        """Tell whether an event belongs to it, but for the pattern."""
        attributes = recorded.attributes
        return (
            (self.stream_id is None or attributes["stream_id"] == self.stream_id)
            and (self.correlation_id is None or attributes["correlation_id"] == self.correlation_id)
            and (self.since is None or recorded.recorded_at_ms >= _epoch_ms(self.since))
            and (self.until is None or recorded.recorded_at_ms < _epoch_ms(self.until))
        )


class History:
    """Published events, by stream, by flow (correlation id), and all in a row."""

    def __init__(self, client: Redis, keys: Keys, retention: Retention, blobs: Blobs) -> None:
        self._client = client
        self._keys = keys
        self._retention = retention
        self._blobs = blobs
        self._record = client.register_script(load_script("append_to_history") + load_script("record_event"))

    def record(self, event: Event, text: str) -> PublicationState:
        """Record an event, given also as JSON text. Returns how far an earlier publication of it got."""
        keys = [
            self._keys.publication(event.event_id),
            self._keys.history,
            self._keys.history_of_stream(event.stream_id),
            self._keys.history_of_flow(event.correlation_id),
        ]
        progress: PublicationState = self._record(keys=keys, args=[text, *self._retention_arguments()])
        return progress

    def mark_published(self, event_id: str) -> None:
        """Note that all tasks of a publication were sent."""
        window_ms = _milliseconds(self._retention.deduplication_window)
        self._client.set(self._keys.publication(event_id), "done", px=window_ms)

    def read_stream(self, stream_id: str) -> list[RecordedEvent]:
        """Read the events of a stream, oldest first."""
        return self._read_index(self._keys.history_of_stream(stream_id))

    def read_flow(self, correlation_id: str) -> list[RecordedEvent]:
        """Read the events of a flow, oldest first."""
        return self._read_index(self._keys.history_of_flow(correlation_id))

    def first_entry_of_flow(self, correlation_id: str) -> str | None:
        """Tell which entry a flow began with, as far as it is kept."""
        names: Any = self._client.lrange(self._keys.history_of_flow(correlation_id), 0, 0)
        return str(names[0]) if names else None

    def read_stream_after(self, stream_id: str, entry_id: str) -> list[RecordedEvent]:
        """Read the events of a stream after an entry, oldest first, at most a page; one look where there are none."""
        index = self._keys.history_of_stream(stream_id)
        last: Any = self._client.lrange(index, -1, -1)
        if not last or _order(last[0]) <= _order(entry_id):
            return []
        names: Any = self._client.lrange(index, -HISTORY_PAGE_SIZE, -1)
        return self._read_entries([str(name) for name in names if _order(name) > _order(entry_id)])

    def select(self, selection: HistoryQuery) -> Iterator[RecordedEvent]:
        """Read the events of a selection, oldest first; what is recorded after the call is none of them."""
        end = self.last_entry_id()
        hears = _build_matcher(selection.pattern)
        return (each for each in self._read_range(selection, end) if selection.matches(each) and hears(each.topic))

    def read_after(
        self, entry_id: str = HISTORY_START, *, count: int = 1_000, block_ms: int | None = None
    ) -> list[RecordedEvent]:
        """Read what was recorded after an entry, oldest first; waits up to `block_ms` for the first."""
        if block_ms is not None:
            self._client.xread({self._keys.history: entry_id}, count=1, block=block_ms)
        return self._parse_entries(self._client.xrange(self._keys.history, min=f"({entry_id}", count=count))

    def search(
        self, substrings: Sequence[str], entry_id: str = HISTORY_START, *, count: int = 1_000
    ) -> tuple[list[RecordedEvent], str | None]:
        """Read, of the next events after an entry, those whose text holds one of the words; and the last looked at.

        Reading the others as JSON would take most of the time. None where there are no more.
        """
        entries: Any = self._client.xrange(self._keys.history, min=f"({entry_id}", count=count)
        found = [each for each in entries if any(word in each[1]["event"] for word in substrings)]
        return self._parse_entries(found), str(entries[-1][0]) if entries else None

    def last_entry_id(self) -> str:
        """Tell where the history ends now."""
        entries = self._client.xrevrange(self._keys.history, count=1)
        return str(entries[0][0]) if entries else HISTORY_START

    def _read_range(self, selection: HistoryQuery, end: str) -> Iterator[RecordedEvent]:
        """Read by the narrowest of what there is: a flow, a stream, or the whole history, piece by piece."""
        if selection.correlation_id is not None:
            return self._read_index_until(self._keys.history_of_flow(selection.correlation_id), end)
        if selection.stream_id is not None:
            return self._read_index_until(self._keys.history_of_stream(selection.stream_id), end)
        return self._read_pages(selection, end)

    def _read_index_until(self, index: str, end: str) -> Iterator[RecordedEvent]:
        entry_ids = [entry_id for entry_id in self._read_entry_ids(index) if _order(entry_id) <= _order(end)]
        for start in range(0, len(entry_ids), HISTORY_PAGE_SIZE):
            yield from self._read_entries(entry_ids[start : start + HISTORY_PAGE_SIZE])

    def _read_pages(self, selection: HistoryQuery, end: str) -> Iterator[RecordedEvent]:
        begin = str(_epoch_ms(selection.since)) if selection.since else "-"
        while page := self._parse_entries(self._client.xrange(self._keys.history, begin, end, count=HISTORY_PAGE_SIZE)):
            yield from page
            begin = f"({page[-1].entry_id}"

    def _read_index(self, index: str) -> list[RecordedEvent]:
        return self._read_entries(self._read_entry_ids(index))

    def _read_entry_ids(self, index: str) -> list[str]:
        return [str(entry_id) for entry_id in self._client.lrange(index, 0, -1)]

    def _read_entries(self, entry_ids: Sequence[str]) -> list[RecordedEvent]:
        with self._client.pipeline(transaction=False) as pipe:
            for entry_id in entry_ids:
                pipe.xrange(self._keys.history, entry_id, entry_id)
            found = pipe.execute()
        # An entry may have left the history while its index still names it: it reads as no entries.
        return [recorded for entries in found for recorded in self._parse_entries(entries)]

    def _parse_entries(self, entries: Entries) -> list[RecordedEvent]:
        return [
            RecordedEvent(str(entry_id), json.loads(fields["event"]), self._blobs)
            for entry_id, fields in entries or []
            if fields is not None
        ]

    def _retention_arguments(self) -> list[int]:
        kept = self._retention
        ages = [_milliseconds(kept.age), _milliseconds(kept.deduplication_window)]
        return [kept.max_events, kept.max_stream_events, *ages]


def _build_matcher(pattern: str | None) -> Callable[[str], bool]:
    if pattern is None:
        return lambda _: True
    trie: TopicTrie[str] = TopicTrie()
    trie.add(pattern, pattern)
    return lambda topic: bool(trie.match(topic))


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)


def _epoch_ms(moment: datetime) -> int:
    return max(0, int(moment.timestamp() * 1_000))


def _milliseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1_000)
