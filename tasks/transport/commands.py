"""Commands: the Lua scripts of the transport as functions, for one client."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from redis import Redis

from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.scripts import load_script
from petiole.tasks.transport.scripts import load_transport_script

PUT = load_transport_script("publish_message")

RedisCommand = tuple[str | bytes | int | float, ...]

_WAKEUP_AGE_S = 60

GiveBack = Literal["unread", "last", "crashed"]
"""How a delivery returns to its queue: to its front, to its end, or to its front with one crash more."""


class Fetched(NamedTuple):
    """A delivery that was removed from its queue. Without a tag, it is not leased.

    `text` is a queue entry (stores/deliveries.py), `event` that of an entry that refers to the history. `fetched_at` is
    when the fetch was sent (`lease_clock`), or 0 if it must be checked whether the delivery was aborted.
    """

    queue: str
    tag: str
    text: bytes
    event: bytes
    fetched_at: float = 0.0

    @property
    def message(self) -> bytes:
        """The bytes of a message of another Celery client."""
        return self.text.split(b"\n", 4)[-1]


class Renewal(NamedTuple):
    """The reply to a heartbeat.

    Attributes:
        leases: number of the consumer's leases; -1 if it was not registered.
        now: the server's time in seconds.
        silent: other consumers without a heartbeat for some time, with their last one.
    """

    leases: int
    now: float
    silent: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class QueueSource:
    """A queue to fetch from: its deliveries' lists without the priority, and the lists of messages by priority.

    Lists of parked deliveries have no messages. `returns_to` are the lists to which a delivery of theirs is returned.
    """

    queue: str
    lists: str
    message_lists: Sequence[str]
    is_leased: bool
    returns_to: str = ""


class TransportCommands:
    """The Lua scripts of one channel; what it fetches is leased to one consumer."""

    def __init__(self, client: Redis, prefix: str, consumer: str, steps: Sequence[int]) -> None:
        self.client = client
        self._keys = Keys(prefix)
        self._consumer = consumer
        self._steps = steps
        moves = load_script("history") + load_script("deliveries")
        self._fetch = client.register_script(moves + load_transport_script("fetch"))
        self._give_back = client.register_script(moves + load_transport_script("give_back"))
        self._expire = client.register_script(moves + load_transport_script("expire"))
        self._unregister = client.register_script(load_transport_script("unregister"))
        self._renew = client.register_script(load_transport_script("renew"))

    def build_fetch_command(
        self, sources: Sequence[QueueSource], credit: int, first_tag: int, acks: Sequence[str], order: str
    ) -> RedisCommand:
        """Build a fetch for a connection that reads the reply later; `parse_fetch_reply` parses it."""
        keys, arguments = self._fetch_arguments(sources, credit, first_tag, acks, order)
        return ("EVALSHA", str(self._fetch.sha), len(keys), *keys, *arguments)

    def fetch(
        self, sources: Sequence[QueueSource], credit: int, first_tag: int, acks: Sequence[str], order: str = "fair"
    ) -> list[Fetched]:
        """Send acknowledgements and fetch up to `credit` deliveries, leased under tags from `first_tag`."""
        keys, arguments = self._fetch_arguments(sources, credit, first_tag, acks, order)
        return list(self.parse_fetch_reply(self._fetch(keys, arguments), sources))

    @staticmethod
    def parse_fetch_reply(
        reply: Sequence[Any], sources: Sequence[QueueSource], sent_at: float = 0.0
    ) -> Iterator[Fetched]:
        """Parse the reply to a fetch that was sent at that time (`lease_clock`)."""
        is_any_aborted, events = reply[0], reply[4::4]
        fetched_at = 0.0 if is_any_aborted else sent_at
        for queue, tag, text, event in zip(reply[1::4], reply[2::4], reply[3::4], events, strict=True):
            shared = events[event - 1] if isinstance(event, int) else event
            yield Fetched(sources[queue - 1].queue, str(tag) if tag else "", text, shared, fetched_at)

    def load_fetch_script(self) -> None:
        """Load the script again after a restart of the server."""
        self.client.script_load(self._fetch.script)

    def renew(self, silence_s: float) -> Renewal:
        """Send a heartbeat, and look for consumers without one for `silence_s`."""
        count, now, *silent = self._renew(args=[self._keys.prefix, self._consumer, silence_s])
        pairs = zip(silent[::2], silent[1::2], strict=True)
        return Renewal(int(count), float(now), [(name.decode(), heartbeat.decode()) for name, heartbeat in pairs])

    def leased_tags(self) -> list[str]:
        """Read the tags of all deliveries that are leased to the consumer, oldest first."""
        tags: Any = self.client.hkeys(self._keys.consumer(self._consumer))
        return [str(tag) for tag in sorted(map(int, tags))]

    def read_leased(self, tag: str) -> bytes | None:
        """Read a leased delivery: its list, a line feed, its entry."""
        leased: Any = self.client.hget(self._keys.consumer(self._consumer), tag)
        return leased if isinstance(leased, bytes) else None

    def unregister(self) -> None:
        """Forget the consumer if it leases nothing; otherwise others return its deliveries once it is silent."""
        self._unregister(args=[self._keys.prefix, self._consumer])

    def end_wait(self) -> None:
        """End the consumer's wait for a wake-up. It forgets this by itself: the process may die before it does."""
        wakeup = self._keys.consumer_wakeup(self._consumer)
        with self.client.pipeline() as pipeline:
            pipeline.zadd(wakeup, {"0": 0})
            pipeline.expire(wakeup, _WAKEUP_AGE_S)
            pipeline.execute()

    def uptime_s(self) -> int:
        """Return for how long the server has run."""
        information: Any = self.client.info("server")
        return int(information["uptime_in_seconds"])

    def give_back(self, tags: Sequence[str], way: GiveBack) -> int:
        """Return deliveries to their queues; the first of them is fetched first. Returns how many were leased."""
        if not tags:
            return 0
        messages = [self._read_redelivered(tag) if way == "last" else b"" for tag in tags]
        pairs = [part for pair in zip(tags, messages, strict=True) for part in pair]
        return int(self._give_back(args=[self._keys.prefix, self._consumer, way, *pairs]))

    def expire(self, consumer: str, heartbeat: str) -> int:
        """Return the deliveries of a lost consumer to their queues; -1 if it has sent a heartbeat since."""
        return int(self._expire(args=[self._keys.prefix, consumer, heartbeat]))

    def quarantine(self, message: Fetched) -> None:
        """Move an invalid message that is leased to the quarantine, with the name of its queue."""
        _, acknowledgement = self._fetch_arguments([], 0, 0, [message.tag], "fair")
        with self.client.pipeline() as pipeline:
            pipeline.rpush(self._keys.undecodable, f"{message.queue}\n".encode() + message.message)
            self._fetch(args=acknowledgement, client=pipeline)
            pipeline.execute()

    def first_undecodable(self) -> bytes | None:
        """Read the oldest quarantined entry: the name of its queue, a line break, the message's bytes."""
        first: Any = self.client.lindex(self._keys.undecodable, 0)
        return first if isinstance(first, bytes) else None

    def forget_undecodable(self, entry: bytes) -> None:
        """Delete a quarantined entry that has been stored elsewhere."""
        self.client.lrem(self._keys.undecodable, 1, entry)  # type: ignore[arg-type]  # the stubs want text; bytes are sent as they are

    def _read_redelivered(self, tag: str) -> bytes:
        """Read a leased message of another Celery client, marked as redelivered as kombu does; empty for others."""
        _, _, entry = (self.read_leased(tag) or b"").partition(b"\n")
        if not entry.startswith(b"\n\n"):
            return b""
        message = json.loads(entry.split(b"\n", 4)[-1])
        for part in (message.get("headers"), message["properties"].get("delivery_info")):
            if isinstance(part, dict):
                part["redelivered"] = True
        return json.dumps(message).encode()

    def _fetch_arguments(
        self, sources: Sequence[QueueSource], credit: int, first_tag: int, acks: Sequence[str], order: str
    ) -> tuple[list[str], list[str | int]]:
        # The lists of all queues of the first priority come before those of the second.
        keys = [key for step in zip(*(source.message_lists for source in sources), strict=True) for key in step]
        queues = [part for source in sources for part in (source.lists, _lease_argument(source))]
        counts = (credit, order, first_tag, len(sources), len(self._steps) if sources else 0)
        steps = self._steps if sources else ()
        return keys, [self._keys.prefix, self._consumer, *counts, *queues, *steps, *acks]


def _lease_argument(source: QueueSource) -> str:
    return "pass" if not source.is_leased else source.returns_to or source.lists
