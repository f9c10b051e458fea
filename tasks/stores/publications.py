"""Publications: events and their messages, in one step of the server.

Promise: of one call, all events are recorded and all their messages stand in their queues, or nothing happened; also
where the caller or the server dies in the middle. An event that was published before, within the publish window, is
passed over. For brokers that are this same Redis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, NamedTuple

from redis import Redis

from events.event import Event
from tasks.stores.history import Retention
from tasks.stores.keys import Keys
from tasks.stores.scripts import script


class Message(NamedTuple):
    """A task message without its body: its queue, the list of that queue it goes into, what stands before the body.

    A queue of `capacity` (0: none) takes no more than that; where it `drops_oldest`, the oldest gives way. With a
    `mailbox`, the message waits there until those before it are settled.
    """

    delivery_id: str
    queue: str
    queue_key: str
    head: str
    capacity: int = 0
    drops_oldest: bool = False
    mailbox: str | None = None


@dataclass(frozen=True, slots=True)
class Posting:
    """An event with its messages; `tail` is the body that they share, and what closes them."""

    event: Event
    text: str
    tail: str
    messages: Sequence[Message]


@dataclass(frozen=True, slots=True)
class Settling:
    """A delivery that is settled, and the mailbox that goes on to its next one then."""

    delivery_id: str
    mailbox: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a call: published, with a claim per event whether it was new; or nothing, and why.

    moved: the messages were made from another version of the directory. settled: the delivery was settled before.
    full: the queue that is named has no room.
    """

    answer: Literal["published", "moved", "settled", "full"]
    were_new: tuple[bool, ...] = ()
    full_queue: str | None = None


class Publications:
    """The atomic way out of a process."""

    def __init__(self, client: Redis, keys: Keys, retention: Retention, inbox_age: timedelta) -> None:
        self._keys = keys
        self._retention = retention
        self._inbox_age = inbox_age
        self._publish = client.register_script(script("append") + script("publish"))

    def publish(self, postings: Sequence[Posting], version: int, settling: Settling | None = None) -> Verdict:
        """Publish events whose messages were made from that version of the directory; safe to repeat.

        With `settling`, mark that delivery as settled in the same step.
        """
        answer, *facts = self._publish(
            keys=list(self._key_names(postings, settling)),
            args=list(self._arguments(postings, version, settling)),
        )
        if answer == "full":
            return Verdict(answer, full_queue=facts[0])
        return Verdict(answer, tuple(bool(each) for each in facts))

    def _key_names(self, postings: Sequence[Posting], settling: Settling | None) -> Iterator[str]:
        yield self._keys.directory_version
        yield self._keys.history
        yield self._keys.counters
        yield self._keys.inbox(settling.delivery_id if settling else "-")
        yield self._keys.mailbox_counts
        yield self._mailbox(settling.mailbox if settling else None)
        for posting in postings:
            yield self._keys.published(posting.event.event_id)
            yield self._keys.history_of_stream(posting.event.stream_id)
            yield self._keys.history_of_flow(posting.event.correlation_id)
            yield from (message.queue_key for message in posting.messages)

    def _mailbox(self, name: str | None) -> str:
        return self._keys.mailbox(name) if name else ""

    def _arguments(self, postings: Sequence[Posting], version: int, settling: Settling | None) -> Iterator[str | int]:
        kept = self._retention
        yield version
        yield from (kept.length, kept.index_length, _milliseconds(kept.age), _milliseconds(kept.publish_window))
        yield _milliseconds(self._inbox_age) if settling else 0
        yield settling.delivery_id if settling else ""
        yield len(postings)
        for posting in postings:
            yield posting.text
            yield posting.tail
            yield len(posting.messages)
            for message in posting.messages:
                yield from (message.head, message.queue, message.capacity, int(message.drops_oldest))
                yield from (message.delivery_id, self._mailbox(message.mailbox))


def _milliseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1_000)
