"""History: every published event, in the order of publication, for audit, tracing and replay.

Promise: an event is recorded before its first task is sent, and once. Old events leave by number and age.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeAlias

from redis import Redis

from events.errors import PayloadUnreadable
from events.event import Event
from tasks.stores.blobs import Blobs
from tasks.stores.keys import Keys
from tasks.stores.scripts import script

Progress = Literal["new", "begun", "done"]
Entries: TypeAlias = Sequence[tuple[bytes | str | None, Mapping[Any, bytes | str] | None]] | None

BEGINNING = "0-0"


@dataclass(frozen=True, slots=True)
class Retention:
    """How many events are kept, in all and per stream, and for how long indexes and publish marks live."""

    length: int
    index_length: int
    index_age: timedelta
    publish_window: timedelta


@dataclass(frozen=True, slots=True)
class Recorded:
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
    def document(self) -> Mapping[str, object]:
        """The whole event, fetched where its content is stored elsewhere. Raises PayloadMissing, PayloadAltered."""
        return self.blobs.whole(self.attributes) if self.blobs else self.attributes

    @property
    def shown(self) -> Mapping[str, object]:
        """The whole event to look at; of one whose content is gone, what is left."""
        try:
            return self.document
        except PayloadUnreadable:
            return self.attributes


class History:
    """Published events, by stream, by flow (correlation id), and all in a row."""

    def __init__(self, client: Redis, keys: Keys, retention: Retention, blobs: Blobs) -> None:
        self._client = client
        self._keys = keys
        self._retention = retention
        self._blobs = blobs
        self._record = client.register_script(script("record"))

    def record(self, event: Event, text: str) -> Progress:
        """Record an event, given also as JSON text. Returns how far an earlier publication of it got."""
        keys = [
            self._keys.published(event.event_id),
            self._keys.history,
            self._keys.history_of_stream(event.stream_id),
            self._keys.history_of_flow(event.correlation_id),
        ]
        progress: Progress = self._record(keys=keys, args=[text, *self._limits()])
        return progress

    def close(self, event_id: str) -> None:
        """Note that all tasks of a publication were sent."""
        window_ms = _milliseconds(self._retention.publish_window)
        self._client.set(self._keys.published(event_id), "done", px=window_ms)

    def of_stream(self, stream_id: str) -> list[Recorded]:
        """Read the events of a stream, oldest first."""
        return self._indexed(self._keys.history_of_stream(stream_id))

    def of_flow(self, correlation_id: str) -> list[Recorded]:
        """Read the events of a flow, oldest first."""
        return self._indexed(self._keys.history_of_flow(correlation_id))

    def since(self, entry_id: str = BEGINNING, *, count: int = 1_000, block_ms: int | None = None) -> list[Recorded]:
        """Read what was recorded after an entry, oldest first; waits up to `block_ms` for the first."""
        if block_ms is not None:
            self._client.xread({self._keys.history: entry_id}, count=1, block=block_ms)
        return self._recorded(self._client.xrange(self._keys.history, min=f"({entry_id}", count=count))

    def last_entry_id(self) -> str:
        """Tell where the history ends now."""
        entries = self._client.xrevrange(self._keys.history, count=1)
        return str(entries[0][0]) if entries else BEGINNING

    def _indexed(self, index: str) -> list[Recorded]:
        entry_ids = self._client.lrange(index, 0, -1)
        with self._client.pipeline(transaction=False) as pipe:
            for entry_id in entry_ids:
                pipe.xrange(self._keys.history, entry_id, entry_id)
            found = pipe.execute()
        # An entry may have left the history while its index still names it: it reads as no entries.
        return [recorded for entries in found for recorded in self._recorded(entries)]

    def _recorded(self, entries: Entries) -> list[Recorded]:
        return [
            Recorded(str(entry_id), json.loads(fields["event"]), self._blobs)
            for entry_id, fields in entries or []
            if fields is not None
        ]

    def _limits(self) -> list[int]:
        kept = self._retention
        ages = [_milliseconds(kept.index_age), _milliseconds(kept.publish_window)]
        return [kept.length, kept.index_length, *ages]


def _milliseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1_000)
