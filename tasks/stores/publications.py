"""Publications: commit events, their messages and the end of a delivery in one step of Redis (commit.lua).

Promise: all events of a call are recorded and all their messages are queued, or nothing happens, also if the caller or
Redis crashes meanwhile. An event published before, within the deduplication window, is skipped. Only for brokers that
are this same Redis.
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
    """The broker's keys for unacknowledged messages, if it is this same Redis."""

    unacked: str = "unacked"
    index: str = "unacked_index"
    leased: str = "unacked\x06\x16leased"
    consumers: str = "unacked\x06\x16consumers"


class OutgoingMessage(NamedTuple):
    """A task message without its body, which all messages of an event share.

    `prefix` is the text before the body; `queue_key` the list of the queue's priority. A queue holds at most `capacity`
    messages (0: unlimited); with `drops_oldest` the oldest is dropped then. In a `message_group` the message waits
    until those before it are settled.
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
    """An event with its messages and the body that they share; `reply` is set if it answers a request."""

    event: Event
    text: str
    body: str
    messages: Sequence[OutgoingMessage]
    reply: Reply | None = None


SettlementOutcome: TypeAlias = Literal["handled", "dead_lettered", "retrying", "deferred"]
"""Outcome of an attempt. handled and dead_lettered end the delivery; retrying and deferred schedule another attempt."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A message that a worker leases: the broker's delivery tag and the consumer's id."""

    tag: str
    consumer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """The end of a delivery attempt, for commit.lua.

    - `message_group` advances when the delivery ends.
    - `letter` is stored as a dead letter. `resolved_letter_id` and `replay_number` name the replay that was handled.
    - `failed_attempt` is recorded and `retry_message` scheduled if the delivery is retried or deferred.
    - With a `lease`, nothing happens if the worker has lost it.
    - `state` are values of the agent's state to store.
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
    """Result of a commit: published, or the reason why nothing happened.

    `are_new` tells for each event whether it is new; `unmatched` why a reply could not be delivered.

    - directory_changed: the messages were built from another version of the directory
    - already_settled: the delivery was settled before
    - lease_lost: another worker holds the delivery
    - queue_full: `full_queue` has no capacity left
    - duplicate_request: a request with this id is pending
    """

    status: Literal[
        "published", "directory_changed", "already_settled", "lease_lost", "queue_full", "duplicate_request"
    ]
    are_new: tuple[bool, ...] = ()
    unmatched: tuple[UnmatchedReply | None, ...] = ()
    full_queue: str | None = None


_UNMATCHED: tuple[UnmatchedReply | None, ...] = (None, "late", "wrong_responder", "duplicate")


class Publications:
    """Atomic commits of events and settlements."""

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
        self._commit = client.register_script("".join(load_script(script) for script in scripts))

    def publish(
        self,
        outgoing: Sequence[OutgoingEvent],
        version: int,
        settlement: Settlement | None = None,
        delayed: Sequence[DelayedMessage] = (),
        registration: ReplyRegistration | None = None,
    ) -> CommitResult:
        """Publish events whose messages were built from this version of the directory. Safe to repeat.

        `settlement` ends a delivery attempt in the same step, `delayed` are messages to send later, and `registration`
        registers the first event as a request.
        """
        status, *facts = self._commit(
            keys=list(self._key_names(outgoing, settlement)),
            args=list(self._arguments(outgoing, version, settlement, delayed, registration)),
        )
        if status == "queue_full":
            return CommitResult(status, full_queue=facts[0])
        return CommitResult(
            status, tuple(bool(fact % 2) for fact in facts), tuple(_UNMATCHED[fact // 2] for fact in facts)
        )

    def _key_names(self, outgoing: Sequence[OutgoingEvent], settlement: Settlement | None) -> Iterator[str]:
        keys = self._keys
        yield keys.directory_version
        yield keys.history
        yield keys.counters
        yield keys.message_group_counts
        yield keys.delayed
        yield keys.delayed_messages
        for outgoing_event in outgoing:
            yield keys.publication(outgoing_event.event.event_id)
            yield keys.history_of_stream(outgoing_event.event.stream_id)
            yield keys.history_of_flow(outgoing_event.event.correlation_id)
            yield from (message.queue_key for message in outgoing_event.messages)
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
        retention = self._retention
        yield version
        yield from (
            retention.max_events,
            retention.max_stream_events,
            _milliseconds(retention.age),
            _milliseconds(retention.deduplication_window),
        )
        yield _milliseconds(self._inbox_age)
        yield self._encode_settlement(settlement) if settlement else ""
        yield len(delayed)
        yield len(outgoing)
        for outgoing_event in outgoing:
            yield outgoing_event.text
            yield outgoing_event.body
            yield len(outgoing_event.messages)
            for message in outgoing_event.messages:
                yield from (message.prefix, message.queue, message.capacity, int(message.drops_oldest))
                yield from (message.delivery_id, self._message_group_key(message.message_group))
        for delayed_message in delayed:
            yield from (delayed_message.id, delayed_message.due_ms, delayed_message.value)
        yield self._encode_requests(outgoing, registration)

    def _encode_requests(self, outgoing: Sequence[OutgoingEvent], registration: ReplyRegistration | None) -> str:
        """Encode the request and the replies for the script."""
        replies = [
            {"place": place, **asdict(outgoing_event.reply)}
            for place, outgoing_event in enumerate(outgoing, start=1)
            if outgoing_event.reply is not None
        ]
        if registration is None and not replies:
            return ""
        encoded: dict[str, object] = {"table": self._keys.requests, "replies": replies}
        if registration is not None:
            encoded["request"] = {
                "id": registration.request_id,
                "responder": registration.responder,
                "reply_to": registration.reply_to,
                "timeout_ms": registration.timeout_ms,
                "margin_ms": EXPIRY_MARGIN_MS,
                "token": registration.token,
            }
        return json.dumps(encoded)

    def _encode_settlement(self, settlement: Settlement) -> str:
        """Encode a settlement for the script. Numbers are encoded as text: Lua's have only 53 bits."""
        encoded: dict[str, object] = {"delivery": settlement.delivery_id, "outcome": settlement.outcome}
        if settlement.lease is not None:
            encoded |= {"tag": settlement.lease.tag, "consumer": settlement.lease.consumer}
        if settlement.resolved_letter_id is not None:
            encoded |= {"resolved_letter": settlement.resolved_letter_id, "replay": str(settlement.replay_number or "")}
        if settlement.letter is not None:
            letter = settlement.letter
            encoded["letter"] = {
                "id": letter.id,
                "text": letter.model_dump_json(),
                "ms": str(letter.dead_lettered_at_ms),
            }
        if settlement.retry_message is not None:
            retry = settlement.retry_message
            age_ms = max(retry.due_ms - time.time() * 1_000, 0) + _milliseconds(self._inbox_age)
            encoded |= {"due_ms": str(retry.due_ms), "value": retry.value, "attempts_retention_ms": f"{age_ms:.0f}"}
        if settlement.failed_attempt is not None:
            encoded["failed_attempt"] = settlement.failed_attempt.model_dump_json()
        if settlement.state:
            encoded |= {"state_key": self._keys.agent_state(settlement.agent), "state": dict(settlement.state)}
        return json.dumps(encoded)


def _milliseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1_000)
