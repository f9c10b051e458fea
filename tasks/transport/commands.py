"""The Lua steps as functions, on one client. Keys come whole: the client adds no prefix."""

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
    """A message that left its queue. Without a tag, nothing remembers it but who took it.

    `admitted_at` is when the turn that took it was sent, where it admitted it.
    """

    queue: str
    tag: str
    text: bytes
    checked_at: float = 0.0


class Ack(NamedTuple):
    """An acknowledgement, by the message's tag; with a delivery, that one was handled, and is marked in the inbox."""

    tag: str
    delivery_id: str = ""


class Unacked(NamedTuple):
    """What the broker remembers of a message that was taken: kombu's [message, exchange, routing key], as JSON.

    It goes back if it is still held by that holder ('': by a stock worker), and was taken no later than `before`.
    """

    tag: str
    entry: bytes
    consumer: str
    before: float | str = "inf"


class RequeuedMessage(NamedTuple):
    """A message on its way back, and for each of its queues the list and the bell."""

    unacked: Unacked
    lists: Sequence[tuple[str, str]]
    text: str


class LeaseTimeouts(NamedTuple):
    """After how many seconds what is held is taken from whoever holds it.

    lease: from a holder that did not renew it; stock: from a stock worker; silence: from a holder that is not heard of
    at all (0: no holder is judged by its silence).
    """

    lease: float
    kombu_lease: float
    heartbeat: float


@dataclass(frozen=True, slots=True)
class QueueSource:
    """A queue to take from: its lists in order of priority. What is not recorded cannot be given back."""

    queue: str
    wakeup_key: str
    lists: Sequence[str]
    is_acknowledged: bool


@dataclass(frozen=True, slots=True)
class TransportKeys:
    """The keys of what is taken, in full: kombu's unacked and its index, and beside them ours."""

    unacked: str
    index: str
    leased: str
    consumers: str
    undecodable: str

    @property
    def for_fetch(self) -> tuple[str, ...]:
        """Those that a turn needs, in its order."""
        return (self.unacked, self.index, self.leased, self.undecodable)


class TransportCommands:
    """The atomic steps of one channel, whose messages are held by one holder."""

    def __init__(self, client: Redis, keys: TransportKeys, consumer: str) -> None:
        self.client = client
        self._keys = keys
        self._consumer = consumer
        self._fetch = client.register_script(load_transport_script("fetch"))
        self._renew = client.register_script(load_transport_script("renew"))
        self._expired = client.register_script(load_transport_script("find_expired"))
        self._requeue = client.register_script(load_transport_script("requeue"))

    def build_fetch_command(
        self,
        sources: Sequence[QueueSource],
        credit: int,
        acks: Sequence[Ack],
        order: str,
        delivery_log: DeliveryLog | None,
    ) -> RedisCommand:
        """Word a turn for a connection that will read the answer later; `read_turn` reads it."""
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
        """Forget what was acknowledged and take up to `credit` messages, now."""
        keys, arguments = self._fetch_arguments(sources, credit, acks, order, delivery_log)
        return self.parse_fetch_reply(self._fetch(keys, arguments), sources)

    @staticmethod
    def parse_fetch_reply(answer: Sequence[Any], sources: Sequence[QueueSource], sent_at: float = 0.0) -> list[Fetched]:
        """Read the answer to a turn."""
        fours = zip(answer[::4], answer[1::4], answer[2::4], answer[3::4], strict=True)
        return [
            Fetched(sources[place - 1].queue, tag.decode(), text, sent_at if is_admitted else 0.0)
            for place, tag, text, is_admitted in fours
        ]

    def load_fetch_script(self) -> None:
        """Give the server the script that a restart made it forget."""
        self.client.script_load(load_transport_script("fetch"))

    def renew(self, tags: Sequence[str]) -> list[str]:
        """Tell that the holder lives, and renew its leases; return the tags of those it has lost."""
        keys = (self._keys.index, self._keys.leased, self._keys.consumers)
        return [tag.decode() for tag in self._renew(keys, (self._consumer, *tags))]

    def unregister(self) -> None:
        """Let nobody wait for this holder any longer. What it still holds goes back when its lease is over."""
        self.client.zrem(self._keys.consumers, self._consumer)

    def find_expired(self, ages: LeaseTimeouts, limit: int) -> tuple[str, list[Unacked]]:
        """Find what should go back, oldest first, and since when a silent holder was not heard of."""
        keys = (self._keys.unacked, self._keys.index, self._keys.leased, self._keys.consumers)
        silent_before, *found = self._expired(keys, (*ages, limit))
        fours = zip(found[::4], found[1::4], found[2::4], found[3::4], strict=True)
        return silent_before.decode(), [
            Unacked(tag.decode(), entry, holder.decode(), before.decode()) for tag, holder, before, entry in fours
        ]

    def read_unacked(self, tags: Sequence[str]) -> list[Unacked]:
        """Read what is still unacked of these messages, which this holder took."""
        entries: Any = self.client.hmget(self._keys.unacked, list(tags)) if tags else []
        return [Unacked(tag, entry, self._consumer) for tag, entry in zip(tags, entries, strict=True) if entry]

    def requeue(
        self, messages: Sequence[RequeuedMessage], end: Literal["LPUSH", "RPUSH"], silent_before: str = "-inf"
    ) -> int:
        """Give messages back to their queues, as far as they are still held as it was found; return how many went."""
        keys = (self._keys.unacked, self._keys.index, self._keys.leased, self._keys.consumers)
        lists = [key for message in messages for pair in message.lists for key in pair]
        words = [
            word
            for unacked, pairs, text in messages
            for word in (unacked.tag, unacked.consumer, unacked.before, len(pairs), text)
        ]
        return int(self._requeue([*keys, *lists], [end, silent_before, *words]) if messages else 0)

    def quarantine(self, message: Fetched, wakeup_key: str) -> None:
        """Keep bytes that are no message, below the bell of their queue, until somebody sees to them."""
        with self.client.pipeline() as pipeline:
            pipeline.rpush(self._keys.undecodable, f"{wakeup_key}\n".encode() + message.text)
            pipeline.hdel(self._keys.unacked, message.tag)
            pipeline.zrem(self._keys.index, message.tag)
            pipeline.hdel(self._keys.leased, message.tag)
            pipeline.execute()

    def first_undecodable(self) -> bytes | None:
        """Read what has been set aside for the longest time: the bell of its queue, a line break, the bytes."""
        first: Any = self.client.lindex(self._keys.undecodable, 0)
        return first if isinstance(first, bytes) else None

    def forget_undecodable(self, entry: bytes) -> None:
        """Remove what was set aside, and is kept elsewhere by now."""
        self.client.lrem(self._keys.undecodable, 1, entry)  # type: ignore[arg-type]  # the stubs want text; bytes are sent as they are

    def _fetch_arguments(
        self,
        sources: Sequence[QueueSource],
        credit: int,
        acks: Sequence[Ack],
        order: str,
        delivery_log: DeliveryLog | None,
    ) -> tuple[list[str], list[str | int]]:
        # All queues' lists of the first priority come before any queue's of the second.
        lists = [key for step in zip(*(source.lists for source in sources), strict=True) for key in step]
        keys = [*self._keys.for_fetch, *(source.wakeup_key for source in sources), *lists]
        how = ["record" if source.is_acknowledged else "pass" for source in sources]
        noted = delivery_log.script_arguments(self._consumer) if delivery_log else ("", "", "", 0, "")
        ends = [word for ack in acks for word in ack]
        return keys, [credit, order, self._consumer, len(sources), *noted, *how, *ends]
