"""Publications: commit events, their deliveries and the end of a delivery in one step of Redis (commit.lua).

Promise: all events of a call are recorded and all their deliveries are queued, or nothing happens, also if the caller
or Redis crashes meanwhile. An event published before, within the deduplication window, is skipped. Only for brokers
that are this same Redis.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Literal, NamedTuple, TypeAlias
from uuid import UUID

from redis import Redis

from petiole.events.dead_letter import DeadLetter, FailedAttempt
from petiole.events.event import Event
from petiole.events.responses import UnmatchedReply
from petiole.tasks.stores.clock import ServerClock
from petiole.tasks.stores.delayed_messages import DelayedMessage
from petiole.tasks.stores.history import Retention, flow_index, stream_index
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.requests import EXPIRY_MARGIN_MS, Reply, ReplyRegistration
from petiole.tasks.stores.scripts import Script


class OutgoingDelivery(NamedTuple):
    """The delivery of an event to one subscription, in the list of its queue's priority.

    `entry` is its queue entry without the reference to the event. The queue holds at most `capacity` deliveries (0:
    unlimited); with `drops_oldest` the oldest is dropped then. In a `message_group` the delivery waits until those
    before it have ended.
    """

    queue_list: str
    entry: str
    capacity: int = 0
    drops_oldest: bool = False
    message_group: str | None = None


@dataclass(frozen=True, slots=True)
class OutgoingEvent:
    """An event as the history keeps it, with its deliveries; `reply` is set if it answers a request.

    `reply_text` is what the requester gets, if that is not `text`.
    """

    event: Event
    text: str
    deliveries: Sequence[OutgoingDelivery]
    reply: Reply | None = None
    reply_text: str | None = None


SettlementOutcome: TypeAlias = Literal["handled", "dead_lettered", "retrying", "deferred"]
"""Outcome of an attempt. handled and dead_lettered end the delivery; retrying and deferred schedule another attempt."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A delivery that a worker leases: the delivery tag and the consumer's id; whether it is an entry or a message."""

    tag: str
    consumer: str
    is_entry: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """The end of a delivery attempt, for commit.lua.

    - `message_group` advances when the delivery ends.
    - `letter` is stored as a dead letter. `resolved_letter_id` and `replay_number` name the replay that was handled.
    - `failed_attempt` is recorded and `retry_message` scheduled if the delivery is retried or deferred.
    - With a `lease`, nothing happens if the worker has lost it.
    - `state` are values of the agent's state to store.
    - `began_ms` is when the attempt began, in ms since 1970; the history keeps it with the attempt's events.
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
    began_ms: int | None = None


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
        self, client: Redis, keys: Keys, retention: Retention, inbox_age: timedelta, clock: ServerClock
    ) -> None:
        self._keys = keys
        self._clock = clock
        self._window_ms = _milliseconds(retention.deduplication_window)
        self._limits = (retention.max_events, _milliseconds(retention.age), _milliseconds(inbox_age))
        scripts = (
            "history",
            "deliveries",
            "delay_message",
            "dead_letter",
            "resolve_dead_letter",
            "register_reply",
            "deliver_reply",
            "commit",
        )
        self._commit = Script(client, *scripts)

    def publish(
        self,
        outgoing: Sequence[OutgoingEvent],
        version: int,
        settlement: Settlement | None = None,
        delayed: Sequence[DelayedMessage] = (),
        registration: ReplyRegistration | None = None,
    ) -> CommitResult:
        """Publish events whose deliveries were planned from this version of the directory. Safe to repeat.

        `settlement` ends a delivery attempt in the same step, `delayed` are messages to send later, and `registration`
        registers the first event as a request.
        """
        arguments = list(self._arguments(outgoing, version, settlement, delayed, registration))
        status, *facts = self._commit(arguments)
        if status == "queue_full":
            return CommitResult(status, full_queue=facts[0])
        return CommitResult(
            status, tuple(bool(fact % 2) for fact in facts), tuple(_UNMATCHED[fact // 2] for fact in facts)
        )

    def _arguments(
        self,
        outgoing: Sequence[OutgoingEvent],
        version: int,
        settlement: Settlement | None,
        delayed: Sequence[DelayedMessage],
        registration: ReplyRegistration | None,
    ) -> Iterator[str | int | bytes]:
        yield from (self._keys.prefix, version, self._now_ms() // self._window_ms, self._window_ms)
        yield from (*self._limits, len(outgoing), len(delayed), self._encode_requests(outgoing, registration))
        yield from self._settlement_arguments(settlement) if settlement else _NO_SETTLEMENT
        for outgoing_event in outgoing:
            event = outgoing_event.event
            yield UUID(event.event_id).bytes
            yield outgoing_event.text
            yield from stream_index(self._keys, event.stream_id)
            yield from flow_index(self._keys, event.correlation_id)
            yield len(outgoing_event.deliveries)
            for delivery in outgoing_event.deliveries:
                capacity = -delivery.capacity if delivery.drops_oldest else delivery.capacity
                yield from (delivery.queue_list, delivery.entry, capacity or "", delivery.message_group or "")
        for delayed_message in delayed:
            yield from (delayed_message.id, delayed_message.due_ms, delayed_message.value)

    def _settlement_arguments(self, settlement: Settlement) -> Iterator[str]:
        lease = settlement.lease
        yield from (settlement.outcome, settlement.delivery_id)
        yield from (lease.consumer, lease.tag) if lease else ("", "")
        # The slot of this thread: it settles one delivery at a time.
        yield f"{os.getpid()}-{threading.get_ident()}" if lease and lease.is_entry else ""
        yield settlement.message_group or ""
        yield self._encode_settlement(settlement)
        yield str(settlement.began_ms or "")

    def _encode_requests(self, outgoing: Sequence[OutgoingEvent], registration: ReplyRegistration | None) -> str:
        """Encode the request and the replies for the script."""
        replies = [
            {"place": place, **asdict(outgoing_event.reply), "text": outgoing_event.reply_text or ""}
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
        """Encode the other parts of a settlement. Numbers are encoded as text: Lua's have only 53 bits."""
        encoded: dict[str, object] = {}
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
            age_ms = max(retry.due_ms - self._now_ms(), 0) + self._limits[-1]
            encoded |= {"due_ms": str(retry.due_ms), "value": retry.value, "attempts_retention_ms": f"{age_ms:.0f}"}
        if settlement.failed_attempt is not None:
            encoded["failed_attempt"] = settlement.failed_attempt.model_dump_json()
        if settlement.state:
            encoded |= {"state_key": self._keys.agent_state(settlement.agent), "state": dict(settlement.state)}
        return json.dumps(encoded) if encoded else ""

    def _now_ms(self) -> int:
        return int(self._clock.time_s() * 1_000)


_NO_SETTLEMENT = ("",) * 8


def _milliseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1_000)
