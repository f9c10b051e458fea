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

from petiole.events.dead_letter import DeadLetter, FailedAttempt
from petiole.events.event import Event
from petiole.events.responses import UnmatchedReply
from petiole.tasks.stores.delayed_messages import DelayedMessage
from petiole.tasks.stores.history import Retention
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.requests import EXPIRY_MARGIN_MS, Reply, ReplyRegistration
from petiole.tasks.stores.scripts import load_script


@dataclass(frozen=True, slots=True)
class UnackedKeys:
    """Where the broker, where it is this same Redis, records the messages that workers hold."""

    unacked: str = "unacked"
    index: str = "unacked_index"
    leased: str = "unacked\x06\x16leased"
    consumers: str = "unacked\x06\x16consumers"


class OutgoingMessage(NamedTuple):
    """A task message without its body: its queue, the list of that queue it goes into, what stands before the body.

    A queue of `capacity` (0: none) takes no more than that; where it `drops_oldest`, the oldest gives way. With a
    `mailbox`, the message waits there until those before it are settled.
    """

    delivery_id: str
    queue: str
    queue_key: str
    prefix: str
    capacity: int = 0
    drops_oldest: bool = False
    message_group: str | None = None


@dataclass(frozen=True, slots=True)
class OutgoingEvent:
    """An event with its messages; `tail` is the body that they share, and what closes them.

    `answering` tells of an answer to a request, which is handed to who waits for it.
    """

    event: Event
    text: str
    body: str
    messages: Sequence[OutgoingMessage]
    reply: Reply | None = None


SettlementOutcome: TypeAlias = Literal["handled", "dead_lettered", "retrying", "deferred"]
"""How a run of a delivery ends. The first two are the delivery's end; after the others it comes again."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A message that a worker holds, as the broker knows it: by its tag, and by the holder's id."""

    tag: str
    consumer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """How a run of a delivery ends: see commit.lua.

    `mailbox` goes on when the delivery is over. `letter` is what is buried, `resolves` the letter that it was a
    replay of, the one of that number.
    `failed` is the run where it failed, `waiting` the message of the next one. With a `lease`, nothing happens unless
    the worker has it still. `state` is what the agent keeps of itself from then on.
    """

    delivery_id: str
    outcome: SettlementOutcome = "handled"
    message_group: str | None = None
    lease: Lease | None = None
    letter: DeadLetter | None = None
    resolved_letter_id: str | None = None
    replay_number: int | None = None
    failed_attempt: FailedAttempt | None = None
    retry_message: DelayedMessage | None = None
    agent: str = ""
    state: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CommitResult:
    """What became of a call: published, with a claim per event whether it was new; or nothing, and why.

    `unwanted` says for each event why it reached nobody, where it was an answer to a request that did not.

    moved: the messages were made from another version of the directory. settled: the delivery was settled before.
    fenced: another worker holds the delivery by now. full: the queue that is named has no room.
    refused: somebody waits already for an answer to a request of that id.
    """

    status: Literal[
        "published", "directory_changed", "already_settled", "lease_lost", "queue_full", "duplicate_request"
    ]
    are_new: tuple[bool, ...] = ()
    unmatched: tuple[UnmatchedReply | None, ...] = ()
    full_queue: str | None = None


_UNMATCHED: tuple[UnmatchedReply | None, ...] = (None, "late", "wrong_responder", "duplicate")


class Publications:
    """The atomic way out of a process."""

    def __init__(
        self, client: Redis, keys: Keys, retention: Retention, inbox_age: timedelta, held: UnackedKeys
    ) -> None:
        self._keys = keys
        self._retention = retention
        self._inbox_age = inbox_age
        self._unacked_keys = held
        scripts = (
            "append_to_history",
            "delay_message",
            "dead_letter",
            "resolve_dead_letter",
            "register_reply",
            "deliver_reply",
            "commit",
        )
        self._publish = client.register_script("".join(load_script(script) for script in scripts))

    def publish(
        self,
        outgoing: Sequence[OutgoingEvent],
        version: int,
        settlement: Settlement | None = None,
        delayed: Sequence[DelayedMessage] = (),
        registration: ReplyRegistration | None = None,
    ) -> CommitResult:
        """Publish events whose messages were made from that version of the directory; safe to repeat.

        With `settling`, end the run of a delivery in the same step; `waiting` is published when its time comes. With
        `asking`, the first event is a request, and it is noted who waits for its answer.
        """
        answer, *facts = self._publish(
            keys=list(self._key_names(outgoing, settlement)),
            args=list(self._arguments(outgoing, version, settlement, delayed, registration)),
        )
        if answer == "queue_full":
            return CommitResult(answer, full_queue=facts[0])
        return CommitResult(
            answer, tuple(bool(each % 2) for each in facts), tuple(_UNMATCHED[each // 2] for each in facts)
        )

    def _key_names(self, outgoing: Sequence[OutgoingEvent], settlement: Settlement | None) -> Iterator[str]:
        keys = self._keys
        yield keys.directory_version
        yield keys.history
        yield keys.counters
        yield keys.message_group_counts
        yield keys.delayed
        yield keys.delayed_messages
        for posting in outgoing:
            yield keys.publication(posting.event.event_id)
            yield keys.history_of_stream(posting.event.stream_id)
            yield keys.history_of_flow(posting.event.correlation_id)
            yield from (message.queue_key for message in posting.messages)
        if settlement is not None:
            yield keys.inbox(settlement.delivery_id)
            yield keys.attempts(settlement.delivery_id)
            yield self._message_group_key(settlement.message_group)
            yield from (keys.dead_letters, keys.dead_letter_times, keys.dead_letter_states, keys.dead_letter_replays)
            yield from (self._unacked_keys.unacked, self._unacked_keys.index, self._unacked_keys.leased)

    def _message_group_key(self, name: str | None) -> str:
        return self._keys.message_group(name) if name else ""

    def _arguments(
        self,
        outgoing: Sequence[OutgoingEvent],
        version: int,
        settlement: Settlement | None,
        delayed: Sequence[DelayedMessage],
        registration: ReplyRegistration | None,
    ) -> Iterator[str | int]:
        kept = self._retention
        yield version
        yield from (
            kept.max_events,
            kept.max_stream_events,
            _milliseconds(kept.age),
            _milliseconds(kept.deduplication_window),
        )
        yield _milliseconds(self._inbox_age)
        yield self._encode_settlement(settlement) if settlement else ""
        yield len(delayed)
        yield len(outgoing)
        for posting in outgoing:
            yield posting.text
            yield posting.body
            yield len(posting.messages)
            for message in posting.messages:
                yield from (message.prefix, message.queue, message.capacity, int(message.drops_oldest))
                yield from (message.delivery_id, self._message_group_key(message.message_group))
        for each in delayed:
            yield from (each.id, each.due_ms, each.value)
        yield self._encode_requests(outgoing, registration)

    def _encode_requests(self, outgoing: Sequence[OutgoingEvent], registration: ReplyRegistration | None) -> str:
        """Word what is asked and answered for the script."""
        answers = [
            {"place": place, **asdict(posting.reply)}
            for place, posting in enumerate(outgoing, start=1)
            if posting.reply is not None
        ]
        if registration is None and not answers:
            return ""
        said: dict[str, object] = {"table": self._keys.requests, "replies": answers}
        if registration is not None:
            said["request"] = {
                "id": registration.request_id,
                "responder": registration.responder,
                "reply_to": registration.reply_to,
                "timeout_ms": registration.timeout_ms,
                "margin_ms": EXPIRY_MARGIN_MS,
                "token": registration.token,
            }
        return json.dumps(said)

    def _encode_settlement(self, settlement: Settlement) -> str:
        """Word a settling for the script, which reads texts only: a number of its own would lose digits."""
        said: dict[str, object] = {"delivery": settlement.delivery_id, "outcome": settlement.outcome}
        if settlement.lease is not None:
            said |= {"tag": settlement.lease.tag, "consumer": settlement.lease.consumer}
        if settlement.resolved_letter_id is not None:
            said |= {"resolved_letter": settlement.resolved_letter_id, "replay": str(settlement.replay_number or "")}
        if settlement.letter is not None:
            letter = settlement.letter
            said["letter"] = {"id": letter.id, "text": letter.model_dump_json(), "ms": str(letter.dead_lettered_at_ms)}
        if settlement.retry_message is not None:
            again = settlement.retry_message
            age_ms = max(again.due_ms - time.time() * 1_000, 0) + _milliseconds(self._inbox_age)
            said |= {"due_ms": str(again.due_ms), "value": again.value, "attempts_retention_ms": f"{age_ms:.0f}"}
        if settlement.failed_attempt is not None:
            said["failed_attempt"] = settlement.failed_attempt.model_dump_json()
        if settlement.state:
            said |= {"state_key": self._keys.agent_state(settlement.agent), "state": dict(settlement.state)}
        return json.dumps(said)


def _milliseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1_000)
