"""Publications: events and their messages, in one step of the server.

Promise: of one call, all events are recorded and all their messages stand in their queues, or nothing happened; also
where the caller or the server dies in the middle. An event that was published before, within the publish window, is
passed over. For brokers that are this same Redis.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Literal, NamedTuple, TypeAlias

from redis import Redis

from petiole.events.dead_letter import Attempt, DeadLetter
from petiole.events.event import Event
from petiole.events.responses import Unwanted
from petiole.tasks.stores.delayed_messages import Waiting
from petiole.tasks.stores.history import Retention
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.requests import MARGIN_MS, Answering, Asking
from petiole.tasks.stores.scripts import script


@dataclass(frozen=True, slots=True)
class HeldKeys:
    """Where the broker, where it is this same Redis, records the messages that workers hold."""

    unacked: str = "unacked"
    index: str = "unacked_index"
    held: str = "unacked\x06\x16held"
    holders: str = "unacked\x06\x16holders"


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
    """An event with its messages; `tail` is the body that they share, and what closes them.

    `answering` tells of an answer to a request, which is handed to who waits for it.
    """

    event: Event
    text: str
    tail: str
    messages: Sequence[Message]
    answering: Answering | None = None


Ending: TypeAlias = Literal["handled", "buried", "retrying", "put_off"]
"""How a run of a delivery ends. The first two are the delivery's end; after the others it comes again."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A message that a worker holds, as the broker knows it: by its tag, and by the holder's id."""

    tag: str
    holder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settling:
    """How a run of a delivery ends: see publish.lua.

    `mailbox` goes on when the delivery is over. `letter` is what is buried, `resolves` the letter that it was a
    replay of, the one of that number.
    `failed` is the run where it failed, `waiting` the message of the next one. With a `lease`, nothing happens unless
    the worker has it still. `state` is what the agent keeps of itself from then on.
    """

    delivery_id: str
    ending: Ending = "handled"
    mailbox: str | None = None
    lease: Lease | None = None
    letter: DeadLetter | None = None
    resolves: str | None = None
    replay_number: int | None = None
    failed: Attempt | None = None
    waiting: Waiting | None = None
    agent: str = ""
    state: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a call: published, with a claim per event whether it was new; or nothing, and why.

    `unwanted` says for each event why it reached nobody, where it was an answer to a request that did not.

    moved: the messages were made from another version of the directory. settled: the delivery was settled before.
    fenced: another worker holds the delivery by now. full: the queue that is named has no room.
    refused: somebody waits already for an answer to a request of that id.
    """

    answer: Literal["published", "moved", "settled", "fenced", "full", "refused"]
    were_new: tuple[bool, ...] = ()
    unwanted: tuple[Unwanted | None, ...] = ()
    full_queue: str | None = None


_UNWANTED: tuple[Unwanted | None, ...] = (None, "late", "foreign", "duplicate")


class Publications:
    """The atomic way out of a process."""

    def __init__(self, client: Redis, keys: Keys, retention: Retention, inbox_age: timedelta, held: HeldKeys) -> None:
        self._keys = keys
        self._retention = retention
        self._inbox_age = inbox_age
        self._held = held
        steps = ("append", "delay", "bury", "resolve", "ask", "respond", "publish")
        self._publish = client.register_script("".join(script(each) for each in steps))

    def publish(
        self,
        postings: Sequence[Posting],
        version: int,
        settling: Settling | None = None,
        waiting: Sequence[Waiting] = (),
        asking: Asking | None = None,
    ) -> Verdict:
        """Publish events whose messages were made from that version of the directory; safe to repeat.

        With `settling`, end the run of a delivery in the same step; `waiting` is published when its time comes. With
        `asking`, the first event is a request, and it is noted who waits for its answer.
        """
        answer, *facts = self._publish(
            keys=list(self._key_names(postings, settling)),
            args=list(self._arguments(postings, version, settling, waiting, asking)),
        )
        if answer == "full":
            return Verdict(answer, full_queue=facts[0])
        return Verdict(answer, tuple(bool(each % 2) for each in facts), tuple(_UNWANTED[each // 2] for each in facts))

    def _key_names(self, postings: Sequence[Posting], settling: Settling | None) -> Iterator[str]:
        keys = self._keys
        yield keys.directory_version
        yield keys.history
        yield keys.counters
        yield keys.mailbox_counts
        yield keys.delays
        yield keys.delayed_messages
        for posting in postings:
            yield keys.published(posting.event.event_id)
            yield keys.history_of_stream(posting.event.stream_id)
            yield keys.history_of_flow(posting.event.correlation_id)
            yield from (message.queue_key for message in posting.messages)
        if settling is not None:
            yield keys.inbox(settling.delivery_id)
            yield keys.attempts(settling.delivery_id)
            yield self._mailbox(settling.mailbox)
            yield from (keys.dead_letters, keys.dead_letter_times, keys.dead_letter_states, keys.dead_letter_replays)
            yield from (self._held.unacked, self._held.index, self._held.held)

    def _mailbox(self, name: str | None) -> str:
        return self._keys.mailbox(name) if name else ""

    def _arguments(
        self,
        postings: Sequence[Posting],
        version: int,
        settling: Settling | None,
        waiting: Sequence[Waiting],
        asking: Asking | None,
    ) -> Iterator[str | int]:
        kept = self._retention
        yield version
        yield from (kept.length, kept.index_length, _milliseconds(kept.age), _milliseconds(kept.publish_window))
        yield _milliseconds(self._inbox_age)
        yield self._as_json(settling) if settling else ""
        yield len(waiting)
        yield len(postings)
        for posting in postings:
            yield posting.text
            yield posting.tail
            yield len(posting.messages)
            for message in posting.messages:
                yield from (message.head, message.queue, message.capacity, int(message.drops_oldest))
                yield from (message.delivery_id, self._mailbox(message.mailbox))
        for each in waiting:
            yield from (each.id, each.due_ms, each.value)
        yield self._exchange(postings, asking)

    def _exchange(self, postings: Sequence[Posting], asking: Asking | None) -> str:
        """Word what is asked and answered for the script."""
        answers = [
            {"place": place, **asdict(posting.answering)}
            for place, posting in enumerate(postings, start=1)
            if posting.answering is not None
        ]
        if asking is None and not answers:
            return ""
        said: dict[str, object] = {"table": self._keys.requests, "answers": answers}
        if asking is not None:
            said["asked"] = {
                "id": asking.request_id,
                "responder": asking.responder,
                "reply_to": asking.reply_to,
                "timeout_ms": asking.timeout_ms,
                "margin_ms": MARGIN_MS,
                "token": asking.token,
            }
        return json.dumps(said)

    def _as_json(self, settling: Settling) -> str:
        """Word a settling for the script, which reads texts only: a number of its own would lose digits."""
        said: dict[str, object] = {"delivery": settling.delivery_id, "ending": settling.ending}
        if settling.lease is not None:
            said |= {"tag": settling.lease.tag, "holder": settling.lease.holder}
        if settling.resolves is not None:
            said |= {"resolves": settling.resolves, "replay": str(settling.replay_number or "")}
        if settling.letter is not None:
            letter = settling.letter
            said["letter"] = {"id": letter.id, "text": letter.model_dump_json(), "ms": str(letter.buried_ms)}
        if settling.waiting is not None:
            again = settling.waiting
            age_ms = max(again.due_ms - time.time() * 1_000, 0) + _milliseconds(self._inbox_age)
            said |= {"due_ms": str(again.due_ms), "value": again.value, "runs_age_ms": f"{age_ms:.0f}"}
        if settling.failed is not None:
            said["run"] = settling.failed.model_dump_json()
        if settling.state:
            said |= {"state_key": self._keys.agent_state(settling.agent), "state": dict(settling.state)}
        return json.dumps(said)


def _milliseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1_000)
