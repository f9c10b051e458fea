"""Commands: the Lua scripts as functions, for one client. Keys are complete: the client adds no prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from redis import Redis

from petiole.tasks.transport.delivery_log import DeliveryLog
from petiole.tasks.transport.scripts import load_transport_script

PUT = load_transport_script("publish_message")

RedisCommand = tuple[str | bytes | int | float, ...]


class Fetched(NamedTuple):
    """A message that was removed from its queue. Without a tag, the broker has no record of it.

    `checked_at` is when the fetch was sent (monotonic clock), if it found no duplicate; otherwise 0.
    """

    queue: str
    tag: str
    text: bytes
    checked_at: float = 0.0


class Ack(NamedTuple):
    """An acknowledgement of the message with that tag; with a delivery id, it marks the delivery as handled."""

    tag: str
    delivery_id: str = ""


class Unacked(NamedTuple):
    """The broker's record of a fetched message; `entry` is kombu's [message, exchange, routing key], as JSON.

    It is requeued if it is still leased to `consumer` ('' for a stock worker), since `before` or earlier.
    """

    tag: str
    entry: bytes
    consumer: str
    before: float | str = "inf"


class RequeuedMessage(NamedTuple):
    """A message to requeue, with the list and the wake-up key of each of its queues."""

    unacked: Unacked
    lists: Sequence[tuple[str, str]]
    text: str


class LeaseTimeouts(NamedTuple):
    """The times in seconds after which a leased message is requeued.

    Attributes:
        lease: since the consumer renewed its lease.
        kombu_lease: since a stock worker fetched it.
        heartbeat: since the consumer's last heartbeat; 0 ignores missing heartbeats.
    """

    lease: float
    kombu_lease: float
    heartbeat: float


@dataclass(frozen=True, slots=True)
class QueueSource:
    """A queue to fetch from, with its lists by priority. Without acknowledgements, messages cannot be requeued."""

    queue: str
    wakeup_key: str
    lists: Sequence[str]
    is_acknowledged: bool


@dataclass(frozen=True, slots=True)
class TransportKeys:
    """The complete keys of fetched messages: kombu's `unacked` and its index, and ours."""

    unacked: str
    index: str
    leased: str
    consumers: str
    undecodable: str

    @property
    def for_fetch(self) -> tuple[str, ...]:
        """The keys of fetch.lua, in its order."""
        return (self.unacked, self.index, self.leased, self.undecodable)


class TransportCommands:
    """The Lua scripts of one channel; fetched messages are leased to one consumer."""

    def __init__(self, client: Redis, keys: TransportKeys, consumer: str) -> None:
        self.client = client
        self._keys = keys
        self._consumer = consumer
        self._fetch = client.register_script(load_transport_script("fetch"))
        self._renew = client.register_script(load_transport_script("renew"))
        self._find_expired = client.register_script(load_transport_script("find_expired"))
        self._requeue = client.register_script(load_transport_script("requeue"))

    def build_fetch_command(
        self,
        sources: Sequence[QueueSource],
        credit: int,
        acks: Sequence[Ack],
        order: str,
        delivery_log: DeliveryLog | None,
    ) -> RedisCommand:
        """Build a fetch for a connection that reads the reply later; `parse_fetch_reply` parses it."""
        keys, arguments = self._fetch_arguments(sources, credit, acks, order, delivery_log)
        return ("EVALSHA", str(self._fetch.sha), len(keys), *keys, *arguments)

    def fetch(
        self,
        sources: Sequence[QueueSource],
        credit: int,
        acks: Sequence[Ack],
        order: str = "fair",
        delivery_log: DeliveryLog | None = None,
    ) -> list[Fetched]:
        """Send acknowledgements and fetch up to `credit` messages."""
        keys, arguments = self._fetch_arguments(sources, credit, acks, order, delivery_log)
        return self.parse_fetch_reply(self._fetch(keys, arguments), sources)

    @staticmethod
    def parse_fetch_reply(reply: Sequence[Any], sources: Sequence[QueueSource], sent_at: float = 0.0) -> list[Fetched]:
        """Parse the reply to a fetch."""
        rows = zip(reply[::4], reply[1::4], reply[2::4], reply[3::4], strict=True)
        return [
            Fetched(sources[number - 1].queue, tag.decode(), text, sent_at if is_checked else 0.0)
            for number, tag, text, is_checked in rows
        ]

    def load_fetch_script(self) -> None:
        """Load the script again after a restart of the server."""
        self.client.script_load(load_transport_script("fetch"))

    def renew(self, tags: Sequence[str]) -> list[str]:
        """Send a heartbeat and renew the leases on messages; return the tags of those that are lost."""
        keys = (self._keys.index, self._keys.leased, self._keys.consumers)
        return [tag.decode() for tag in self._renew(keys, (self._consumer, *tags))]

    def unregister(self) -> None:
        """Delete the consumer's heartbeat. Messages that it still has are requeued when their lease expires."""
        self.client.zrem(self._keys.consumers, self._consumer)

    def find_expired(self, ages: LeaseTimeouts, limit: int) -> tuple[str, list[Unacked]]:
        """Return the time before which heartbeats have expired, and the messages to requeue, oldest first."""
        keys = (self._keys.unacked, self._keys.index, self._keys.leased, self._keys.consumers)
        silent_before, *values = self._find_expired(keys, (*ages, limit))
        rows = zip(values[::4], values[1::4], values[2::4], values[3::4], strict=True)
        return silent_before.decode(), [
            Unacked(tag.decode(), entry, consumer.decode(), before.decode()) for tag, consumer, before, entry in rows
        ]

    def read_unacked(self, tags: Sequence[str]) -> list[Unacked]:
        """Read the records of those messages of this consumer that are not acknowledged."""
        entries: Any = self.client.hmget(self._keys.unacked, list(tags)) if tags else []
        return [Unacked(tag, entry, self._consumer) for tag, entry in zip(tags, entries, strict=True) if entry]

    def requeue(
        self, messages: Sequence[RequeuedMessage], end: Literal["LPUSH", "RPUSH"], silent_before: str = "-inf"
    ) -> int:
        """Requeue the messages whose lease has not changed since it was read; return how many."""
        keys = (self._keys.unacked, self._keys.index, self._keys.leased, self._keys.consumers)
        lists = [key for message in messages for pair in message.lists for key in pair]
        arguments = [
            argument
            for unacked, pairs, text in messages
            for argument in (unacked.tag, unacked.consumer, unacked.before, len(pairs), text)
        ]
        return int(self._requeue([*keys, *lists], [end, silent_before, *arguments]) if messages else 0)

    def quarantine(self, message: Fetched, wakeup_key: str) -> None:
        """Move an invalid message to the quarantine, together with the wake-up key that identifies its queue."""
        with self.client.pipeline() as pipeline:
            pipeline.rpush(self._keys.undecodable, f"{wakeup_key}\n".encode() + message.text)
            pipeline.hdel(self._keys.unacked, message.tag)
            pipeline.zrem(self._keys.index, message.tag)
            pipeline.hdel(self._keys.leased, message.tag)
            pipeline.execute()

    def first_undecodable(self) -> bytes | None:
        """Read the oldest quarantined entry: the wake-up key of its queue, a line break, the message's bytes."""
        first: Any = self.client.lindex(self._keys.undecodable, 0)
        return first if isinstance(first, bytes) else None

    def forget_undecodable(self, entry: bytes) -> None:
        """Delete a quarantined entry that has been stored elsewhere."""
        self.client.lrem(self._keys.undecodable, 1, entry)  # type: ignore[arg-type]  # the stubs want text; bytes are sent as they are

    def _fetch_arguments(
        self,
        sources: Sequence[QueueSource],
        credit: int,
        acks: Sequence[Ack],
        order: str,
        delivery_log: DeliveryLog | None,
    ) -> tuple[list[str], list[str | int]]:
        # The lists of all queues of the first priority come before those of the second.
        lists = [key for step in zip(*(source.lists for source in sources), strict=True) for key in step]
        keys = [*self._keys.for_fetch, *(source.wakeup_key for source in sources), *lists]
        modes = ["record" if source.is_acknowledged else "pass" for source in sources]
        log_arguments = delivery_log.script_arguments(self._consumer) if delivery_log else ("", "", "", 0, "")
        ack_arguments = [value for ack in acks for value in ack]
        return keys, [credit, order, self._consumer, len(sources), *log_arguments, *modes, *ack_arguments]
