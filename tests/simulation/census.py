"""Census: where every delivery is, read from the fake server past all faults, and what must hold after every step.

one place       no delivery is in two places, and none that has ended is anywhere again
references      the references to each block of the history are as many as the entries that have one, and the
                events that they refer to exist
groups          of a message group, one delivery at most is not waiting in the group, and the group is active then
leases          stand under consumers that are watched for heartbeats
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from fakeredis import FakeServer
from redis import Redis

from petiole.tasks.stores.deliveries import QueueEntry
from petiole.tasks.stores.keys import Keys

Place = Literal["queued", "leased", "delayed", "waiting"]


@dataclass(frozen=True, slots=True)
class Found:
    """An entry and where it is; `key` is the list, the consumer, or the message group."""

    place: Place
    key: str
    tag: str
    entry: QueueEntry

    @property
    def name(self) -> tuple[str, str]:
        """What no other delivery has: its id or its event, and the subscription."""
        return str(self.entry.options.get("id") or self.entry.reference), self.entry.subscription

    def __str__(self) -> str:
        return f"{self.entry.subscription} {self.place} in {self.key} {self.tag}"


class Census:
    """The places of one server, and which deliveries have ended."""

    def __init__(self, server: FakeServer, client: Redis, keys: Keys) -> None:
        self._server = server
        self._client = client
        self._keys = keys
        self._seen: dict[tuple[str, str], bool] = {}
        """Whether each delivery still was somewhere at the last look."""

    def found(self) -> list[Found]:
        """List all entries."""
        return [found for name, value in self._values() for found in self._entries(name, value)]

    def broken(self) -> Iterator[str]:
        """List what does not hold now. Called after every step."""
        values = dict(self._values())
        found = [each for name, value in values.items() for each in self._entries(name, value)]
        yield from self._one_place(found)
        yield from self._references(found, values)
        yield from self._groups(found, values)
        yield from self._leases(found, values)

    def lists_of_messages(self) -> list[str]:
        """List the queues of messages of Celery clients that are not empty."""
        return [
            name.decode()
            for name, item in self._server.dbs[0].items()
            if isinstance(item.value, list) and not name.startswith(f"{self._keys.prefix}:".encode())
        ]

    def _values(self) -> Iterator[tuple[str, Any]]:
        prefix = f"{self._keys.prefix}:"
        # Asked by a command for each key, this would be most of a run's time.
        for raw, item in self._server.dbs[0].items():
            name = raw.decode()
            if name.startswith(prefix):
                yield name.removeprefix(prefix), item.value

    def _entries(self, name: str, value: Any) -> Iterator[Found]:
        kind, _, rest = name.partition(":")
        if kind == "queues" and isinstance(value, list):
            yield from (Found("queued", rest, "", QueueEntry.parse(entry)) for entry in value)
        elif kind == "consumers" and rest and not rest.endswith((":slots", ":wakeup")):
            for tag, leased in value.items():
                yield Found("leased", rest, tag.decode(), QueueEntry.parse(leased.partition(b"\n")[2]))
        elif name == "delayed:messages":
            for tag, text in value.items():
                _, list_key, entry = text.split(b"\n", 2)
                if list_key.startswith(f"{self._keys.prefix}:queues:".encode()):
                    yield Found("delayed", "", tag.decode(), QueueEntry.parse(entry))
        elif kind == "message_groups" and rest and isinstance(value, list):
            yield from (Found("waiting", rest, "", QueueEntry.parse(text.partition(b"\n")[2])) for text in value)

    def _one_place(self, found: list[Found]) -> Iterator[str]:
        places: dict[tuple[str, str], list[Found]] = {}
        for each in found:
            if each.entry.subscription:
                places.setdefault(each.name, []).append(each)
        for name, copies in places.items():
            if len(copies) > 1:
                yield f"in {len(copies)} places: {'; '.join(map(str, copies))}"
            if not self._seen.get(name, True):
                yield f"ended, and there again: {copies[0]}"
        self._seen = dict.fromkeys(self._seen, False) | dict.fromkeys(places, True)

    def _references(self, found: list[Found], values: dict[str, Any]) -> Iterator[str]:
        counts = Counter(each.entry.reference.partition("/")[0] for each in found if each.entry.reference)
        counted = {block.decode(): int(count) for block, count in _items(values.get("history:references"))}
        if counts != counted:
            yield f"references: {dict(counts)} exist, {counted} are counted"
        entries = {key.encode() for key in _stream_ids(values.get("history"))}
        for each in found:
            if each.entry.reference and each.entry.reference.partition("/")[2].encode() not in entries:
                yield f"its event is gone: {each}"

    def _groups(self, found: list[Found], values: dict[str, Any]) -> Iterator[str]:
        outside = Counter(each.entry.options.get("group") for each in found if each.place != "waiting")
        outside.pop(None, None)
        active = {group.decode() for group in values.get("active_message_groups", ())}
        if dict.fromkeys(active, 1) != outside:
            yield f"message groups: {sorted(active)} are active, outside of them are {dict(outside)}"
        waiting = sum(each.place == "waiting" for each in found)
        counted = sum(int(count) for _, count in _items(values.get("message_groups")))
        if waiting != counted:
            yield f"message groups: {waiting} wait, {counted} are counted"

    def _leases(self, found: list[Found], values: dict[str, Any]) -> Iterator[str]:
        watched = {name.decode() for name, _ in _items(values.get("consumers"))}
        for each in found:
            if each.place == "leased" and each.key not in watched:
                yield f"its consumer is not watched: {each}"


def _items(value: Any) -> Any:
    return value.items() if value is not None else ()


def _stream_ids(stream: Any) -> list[str]:
    return [key.encode().decode() for key in stream._ids] if stream is not None else []
