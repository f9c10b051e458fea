"""History: every published event in order of publication, for audit, tracing and replay.

Promise: an event is recorded once, before its first delivery is queued. New events remove old ones in blocks of 32, by
count and by age, except for events that a queued delivery refers to. Times are those of the recording, by the server's
clock.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from redis import Redis

from petiole.events.errors import PayloadUnreadable, UsageError
from petiole.events.event import Event
from petiole.events.topics import TopicTrie, check_pattern
from petiole.tasks.stores.blobs import Blobs
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.scripts import Script

PublicationState = Literal["new", "started", "done"]
Entries: TypeAlias = Sequence[tuple[bytes | str | None, Mapping[Any, bytes | str] | None]] | None

HISTORY_START = "0-0"

_INDEX_LISTS = 1_024
"""Lists that share the index of all streams, and of all flows. A list per stream would take ten times the memory."""

HISTORY_PAGE_SIZE = 500
"""Events read in one round trip."""

LIGHT_LENGTH = 4_000
"""Longer events are kept without their contents by `History.light`, in characters."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How many events are kept, in total and per stream, how long, and how long duplicates are recognised."""

    max_events: int
    max_stream_events: int
    age: timedelta
    deduplication_window: timedelta


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An event of the history, with its entry id and its JSON object.

    `attributes` is the object as recorded, with a reference instead of large content. Reading it costs no round trip.
    `reload` reads the object again, if it was kept without its content.
    `began_ms` is when the attempt began whose handler published the event, in ms since 1970; None for other publishers.
    """

    entry_id: str
    attributes: Mapping[str, object]
    blobs: Blobs | None = field(default=None, repr=False, compare=False)
    began_ms: int | None = field(default=None, compare=False)
    reload: Callable[[str], Mapping[str, object] | None] | None = field(default=None, repr=False, compare=False)

    @property
    def topic(self) -> str:
        """The event type."""
        return str(self.attributes["event_type"])

    @property
    def recorded_at_ms(self) -> int:
        """Time of the recording in ms since 1970, by the server's clock."""
        return _order(self.entry_id)[0]

    @property
    def document(self) -> Mapping[str, object]:
        """The event with its content, which is fetched if it is stored as a blob.

        Raises PayloadUnreadable.
        """
        attributes = (self.reload(self.entry_id) if self.reload else None) or self.attributes
        return self.blobs.restore(attributes) if self.blobs else attributes

    @property
    def document_or_stub(self) -> Mapping[str, object]:
        """The event with its content, or without if the content is missing or altered."""
        try:
            return self.document
        except PayloadUnreadable:
            return self.attributes


def read_kept_documents(events: Iterable[RecordedEvent]) -> Iterator[Mapping[str, object]]:
    """Yield the documents of events. Leaves out those with `expires_at` whose content is no longer kept.

    Raises PayloadUnreadable for other events.
    """
    for recorded in events:
        try:
            document = recorded.document
        except PayloadUnreadable as error:
            if error.code != "payload_missing" or recorded.attributes.get("expires_at") is None:
                raise
        else:
            yield document


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """Select events of the history; a field that is None does not restrict.

    `since` is included, `until` excluded. `pattern` matches like a subscription's.
    """

    stream_id: str | None = None
    correlation_id: str | None = None
    pattern: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for a time without a zone or an invalid pattern."""
        if any(moment is not None and moment.tzinfo is None for moment in (self.since, self.until)):
            raise UsageError("a time without a zone is ambiguous; give it one, such as datetime.now(UTC)")
        if self.pattern is not None:
            check_pattern(self.pattern)

    def matches(self, recorded: RecordedEvent) -> bool:
        """Return whether an event matches, except for the pattern."""
        attributes = recorded.attributes
        return (
            (self.stream_id is None or attributes["stream_id"] == self.stream_id)
            and (self.correlation_id is None or attributes["correlation_id"] == self.correlation_id)
            and (self.since is None or recorded.recorded_at_ms >= _epoch_ms(self.since))
            and (self.until is None or recorded.recorded_at_ms < _epoch_ms(self.until))
        )


class History:
    """Published events, by stream, by flow (correlation id), and in total order."""

    def __init__(
        self, client: Redis, keys: Keys, retention: Retention, blobs: Blobs, max_length: int | None = None
    ) -> None:
        self._client = client
        self._keys = keys
        self._retention = retention
        self._blobs = blobs
        self._record = Script(client, "history", "record_event")
        self._read = Script(client, "read_entries")
        self._max_length = max_length
        # A page of whole events is what a light history needs memory for.
        self._page_size = HISTORY_PAGE_SIZE if max_length is None else HISTORY_PAGE_SIZE // 5

    @property
    def light(self) -> History:
        """The same history, of which long events are held without contents; their `document` reads them again."""
        return History(self._client, self._keys, self._retention, self._blobs, LIGHT_LENGTH)

    def record(self, event: Event, text: str) -> PublicationState:
        """Record an event with its JSON text. Returns the state of an earlier publication of it, or new."""
        kept = self._retention
        indexes = (*stream_index(self._keys, event.stream_id), *flow_index(self._keys, event.correlation_id))
        ages = (_milliseconds(kept.age), _milliseconds(kept.deduplication_window))
        arguments = (self._keys.prefix, event.event_id, text, *indexes, kept.max_events, *ages)
        progress: PublicationState = self._record(arguments)
        return progress

    def mark_published(self, event_id: str) -> None:
        """Record that all messages of a publication were sent."""
        window_ms = _milliseconds(self._retention.deduplication_window)
        self._client.set(self._keys.publication(event_id), "done", px=window_ms)

    def read_stream(self, stream_id: str) -> list[RecordedEvent]:
        """Read the events of a stream, oldest first."""
        return self._read_entries(self._read_stream_ids(stream_id), stream_id=stream_id)

    def read_flow_documents(self, correlation_id: str) -> Iterator[Mapping[str, object]]:
        """Read the documents of a flow, oldest first, as `read_kept_documents`."""
        return read_kept_documents(self.read_flow(correlation_id))

    def read_flow(self, correlation_id: str) -> list[RecordedEvent]:
        """Read the events of a flow, oldest first."""
        return self._read_entries(self._read_flow_ids(correlation_id), correlation_id=correlation_id)

    def read_flow_after(self, correlation_id: str, entry_id: str) -> list[RecordedEvent]:
        """Read the events of a flow after an entry, oldest first. One round trip if there are none."""
        names = [name for name in self._read_flow_ids(correlation_id) if _order(name) > _order(entry_id)]
        return self._read_entries(names, correlation_id=correlation_id)

    def first_entry_of_flow(self, correlation_id: str) -> str | None:
        """Return the oldest entry id of a flow that is kept."""
        names = self._read_flow_ids(correlation_id)
        return next((recorded.entry_id for recorded in self._read_entries(names, correlation_id=correlation_id)), None)

    def read_stream_after(self, stream_id: str, entry_id: str) -> list[RecordedEvent]:
        """Read at most a page of a stream's events after an entry, oldest first. One round trip if there are none."""
        names = [name for name in self._read_stream_ids(stream_id) if _order(name) > _order(entry_id)]
        return self._read_entries(names[-HISTORY_PAGE_SIZE:], stream_id=stream_id)

    def select(self, selection: HistoryQuery) -> Iterator[RecordedEvent]:
        """Read the selected events, oldest first, without those recorded after the call."""
        end = self.last_entry_id()
        matches = _build_matcher(selection.pattern)
        return (
            recorded
            for recorded in self._read_range(selection, end)
            if selection.matches(recorded) and matches(recorded.topic)
        )

    def read_after(
        self, entry_id: str = HISTORY_START, *, count: int = 1_000, block_ms: int | None = None
    ) -> list[RecordedEvent]:
        """Read the events after an entry, oldest first; waits up to `block_ms` for the first."""
        if block_ms is not None:
            self._client.xread({self._keys.history: entry_id}, count=1, block=block_ms)
        return self._parse_entries(self._client.xrange(self._keys.history, min=f"({entry_id}", count=count))

    def read_last(self, count: int) -> list[RecordedEvent]:
        """Read the last events, oldest first."""
        found: list[RecordedEvent] = []
        while (missing := count - len(found)) > 0:
            end = f"({found[-1].entry_id}" if found else "+"
            page: Any = self._client.xrevrange(self._keys.history, max=end, count=min(missing, self._page_size))
            found += self._parse_entries(page)
            if len(page) < self._page_size:
                break
        return found[::-1]

    def search(
        self, substrings: Sequence[str], entry_id: str = HISTORY_START, *, count: int = 1_000
    ) -> tuple[list[RecordedEvent], str | None]:
        """Read the next events after an entry whose text contains one of the substrings, and the last entry examined.

        The entry is None at the end. The other events are not parsed, which would take most of the time.
        """
        entries: Any = self._client.xrange(self._keys.history, min=f"({entry_id}", count=count)
        matching = [entry for entry in entries if any(word in entry[1]["event"] for word in substrings)]
        return self._parse_entries(matching), str(entries[-1][0]) if entries else None

    def count_recorded(self) -> int:
        """Count the events that were ever recorded, also those removed since; 0 if there is none."""
        if not self._client.exists(self._keys.history):
            return 0
        info: Any = self._client.xinfo_stream(self._keys.history)
        return int(info.get("entries-added", info["length"]))

    def last_entry_id(self) -> str:
        """Return the last entry id."""
        entries = self._client.xrevrange(self._keys.history, count=1)
        return str(entries[0][0]) if entries else HISTORY_START

    def _read_range(self, selection: HistoryQuery, end: str) -> Iterator[RecordedEvent]:
        """Read page by page from the narrowest index: a flow's, a stream's, or the whole history."""
        if selection.correlation_id is not None:
            return self._read_until(self._read_flow_ids(selection.correlation_id), end)
        if selection.stream_id is not None:
            return self._read_until(self._read_stream_ids(selection.stream_id), end)
        return self._read_pages(selection, end)

    def _read_until(self, names: Sequence[str], end: str) -> Iterator[RecordedEvent]:
        entry_ids = [entry_id for entry_id in names if _order(entry_id) <= _order(end)]
        for start in range(0, len(entry_ids), HISTORY_PAGE_SIZE):
            yield from self._read_entries(entry_ids[start : start + HISTORY_PAGE_SIZE])

    def _read_pages(self, selection: HistoryQuery, end: str) -> Iterator[RecordedEvent]:
        begin = str(_epoch_ms(selection.since)) if selection.since else "-"
        while page := self._parse_entries(self._client.xrange(self._keys.history, begin, end, count=HISTORY_PAGE_SIZE)):
            yield from page
            begin = f"({page[-1].entry_id}"

    def _read_stream_ids(self, stream_id: str) -> list[str]:
        """Read the entry ids of a stream's last events; few may be of another stream with the same digest."""
        return self._read_ids(*stream_index(self._keys, stream_id))[-self._retention.max_stream_events :]

    def _read_flow_ids(self, correlation_id: str) -> list[str]:
        return self._read_ids(*flow_index(self._keys, correlation_id))

    def _read_ids(self, index: str, digest: str) -> list[str]:
        members: Any = self._client.lrange(index, 0, -1)
        prefix = f"{digest} "
        return [member.removeprefix(prefix) for member in members if member.startswith(prefix)]

    def _read_entries(self, entry_ids: Sequence[str], **attributes: str) -> list[RecordedEvent]:
        """Read the events that have these attributes, without those that the history has removed."""
        # A script, because redis-py's work for a command takes longer than the server's. Page by page, because others
        # wait for a script, and because the texts of a page take more memory than what is kept of them.
        found: list[RecordedEvent] = []
        for start in range(0, len(entry_ids), self._page_size):
            page = self._read((self._keys.history, *entry_ids[start : start + self._page_size]))
            found += self._parse_entries(
                [(entry_id, dict(zip(fields[::2], fields[1::2], strict=True))) for entry_id, fields in page]
            )
        return [
            recorded
            for recorded in found
            if all(recorded.attributes[name] == value for name, value in attributes.items())
        ]

    def _parse_entries(self, entries: Entries) -> list[RecordedEvent]:
        return [self._parse_entry(str(entry_id), fields) for entry_id, fields in entries or [] if fields is not None]

    def _parse_entry(self, entry_id: str, fields: Mapping[Any, bytes | str]) -> RecordedEvent:
        attributes = json.loads(fields["event"])
        is_long = self._max_length is not None and len(fields["event"]) > self._max_length
        if is_long:
            attributes.pop("content", None)
        began_ms = int(fields["began"]) if "began" in fields else None
        return RecordedEvent(
            entry_id, attributes, self._blobs, began_ms=began_ms, reload=self._read_attributes if is_long else None
        )

    def _read_attributes(self, entry_id: str) -> Mapping[str, object] | None:
        """Read an event as recorded; None if the history has removed it."""
        entries: Any = self._client.xrange(self._keys.history, entry_id, entry_id)
        return json.loads(entries[0][1]["event"]) if entries else None


def stream_index(keys: Keys, stream_id: str) -> tuple[str, str]:
    """Return the list that has the events of a stream, and the digest by which they are found in it."""
    bucket, digest = _digest(stream_id)
    return keys.history_of_stream(bucket), digest


def flow_index(keys: Keys, correlation_id: str) -> tuple[str, str]:
    """Return the list that has the events of a flow, and the digest by which they are found in it."""
    bucket, digest = _digest(correlation_id)
    return keys.history_of_flow(bucket), digest


@lru_cache(10_000)
def _digest(name: str) -> tuple[int, str]:
    digits = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
    return int(digits[:4], 16) % _INDEX_LISTS, digits[4:]


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
