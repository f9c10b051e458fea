"""Settlement: end a delivery attempt. Every attempt starts with `build_attempt` and `begin`.

    handled          publish the handler's events and mark the delivery (`settle`)
    retrying         the attempt failed; schedule the next one (tasks/settlement/failures.py)
    deferred         schedule the next attempt without using one (tasks/settlement/failures.py)
    dead-lettered    the last attempt failed; store a dead letter (tasks/settlement/failures.py)
    requeued         the outcome could not be stored; the broker redelivers the message (`requeue`)

If broker and state store are the same Redis, one commit stores the outcome and acknowledges the message. With other
brokers the acknowledgement follows the commit, and a crash in between repeats the attempt.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from celery.exceptions import Reject
from redis.exceptions import RedisError

from petiole.events import clock
from petiole.events.dead_letter import FailedAttempt
from petiole.events.errors import BrokerUnavailable, LeaseLost, StateStoreUnavailable
from petiole.events.texts import error_text, safe_text
from petiole.tasks.broker.messages import replay_number
from petiole.tasks.broker.topology import DUE_HEADER, RABBITMQ
from petiole.tasks.instrumentation import (
    DeliveryLeaseLost,
    DeliveryRecord,
    OperationFailed,
)
from petiole.tasks.instrumentation.delivery_fields import read_trace_id
from petiole.tasks.publishing.commit import commit
from petiole.tasks.publishing.document import ValidatedEvent
from petiole.tasks.settlement.outcomes import Outcome
from petiole.tasks.stores.attempts import AttemptHistory
from petiole.tasks.stores.delayed_messages import DelayedMessage
from petiole.tasks.stores.deliveries import (
    DEAD_LETTER_HEADER,
    ENTRY_HEADER,
    MESSAGE_GROUP_HEADER,
    REPLAY_HEADER,
    QueueEntry,
)
from petiole.tasks.stores.publications import Lease, Settlement
from petiole.tasks.transport.consumer_id import CONSUMER_HEADER, FETCHED_HEADER
from petiole.tasks.transport.leases import lease_clock

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

MAX_CHECK_AGE_S = 1.0
"""How long after its fetch a delivery starts without another check of its lease, in seconds."""

MIN_ATTEMPT_LEASE_S = 5.0
"""Longer than a worker needs to connect to RabbitMQ again, in seconds; it renews leases every second."""

REQUEUE_PAUSE_S = 0.5
"""How long a slot waits before it requeues a message, or tries again to store an outcome, in seconds."""

OUTAGE_TIMEOUT_S = 10.0
"""How long a slot tries to store an outcome while broker or state store are away, in seconds."""

OUTAGES = (RedisError, BrokerUnavailable, StateStoreUnavailable)
"""Errors for which a message is requeued: broker or state store cannot be used."""


class LazyDocument:
    """An event's JSON, parsed when its document is first read; `text` can be parsed as an event at once."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    @cached_property
    def value(self) -> object:
        """The JSON object."""
        return json.loads(self.text)


@dataclass(frozen=True, slots=True)
class DeliveryAttempt:
    """One attempt to process a task message, with the history of earlier attempts."""

    bus: BusRuntime = field(repr=False)
    delivery_id: str
    task: str
    queue: str
    event: object
    worker: str = ""
    message_group: str | None = None
    replay_id: str | None = None
    letter_id: str | None = None
    replayed_at: str | None = None
    lease: Lease | None = None
    entry: QueueEntry | None = None
    fetched_at: float = 0.0
    history: AttemptHistory = field(default_factory=AttemptHistory)
    began_ms: int | None = None

    @property
    def document(self) -> object:
        """The event's JSON object, or what a foreign message has in its place."""
        return self.event.value if isinstance(self.event, LazyDocument) else self.event

    def emit(self, record: type[DeliveryRecord], **facts: object) -> None:
        """Emit a record of this delivery."""
        if not self.bus.instrumentation.wants(record):
            return
        fields: dict[str, Any] = {**self.describe(), **facts}
        self.bus.instrumentation.emit(record(**fields))

    def describe(self) -> dict[str, object]:
        """Return the fields of this delivery's records."""
        document: Mapping[str, object] = {}
        with suppress(ValueError, RecursionError):
            document = self.document if isinstance(self.document, Mapping) else {}
        names = ("event_type", "event_id", "stream_id", "correlation_id")
        event = {name: safe_text(document[name]) for name in names if name in document}
        traceparent = document.get("traceparent")
        if isinstance(traceparent, str):
            event["trace_id"] = read_trace_id(traceparent)
        delivery = {"delivery_id": self.delivery_id, "subscription": self.task, "agent": self.queue}
        return {**delivery, "attempt": self.history.number, **event}

    def report(self, operation: str, failure: Exception) -> None:
        """Emit a record of an operation that failed for this delivery."""
        record = OperationFailed(operation=operation, exception=failure, delivery_id=self.delivery_id)
        self.bus.instrumentation.emit(record)

    @property
    def settlement(self) -> Settlement:
        """The settlement of this delivery as handled; other outcomes replace its fields."""
        return Settlement(
            delivery_id=self.delivery_id,
            message_group=self.message_group,
            lease=self.lease,
            resolved_letter_id=self.letter_id,
            replay_number=replay_number(self.replay_id),
            began_ms=self.began_ms,
        )


def build_attempt(bus: BusRuntime, request: Any, *, task: str, queue: str, document: object) -> DeliveryAttempt:
    """Make the attempt of a Celery task request."""
    consumer, entry = request.get(CONSUMER_HEADER), request.get(ENTRY_HEADER)
    tag = (request.get("properties") or {}).get("delivery_tag")
    return DeliveryAttempt(
        bus,
        str(request.id),
        task,
        queue,
        document,
        worker=str(request.hostname or ""),
        message_group=request.get(MESSAGE_GROUP_HEADER),
        replay_id=request.get(REPLAY_HEADER),
        letter_id=request.get(DEAD_LETTER_HEADER),
        replayed_at=request.get(DUE_HEADER) if request.get(REPLAY_HEADER) else None,
        lease=Lease(tag, consumer, is_entry=bool(entry)) if consumer and tag else None,
        entry=QueueEntry.parse(entry.encode()) if entry else None,
        fetched_at=request.get(FETCHED_HEADER) or 0.0,
    )


class EntryParts(NamedTuple):
    """A leased queue entry, as a worker passes it to a slot of its pool."""

    text: bytes
    event: bytes
    delivery_id: str
    tag: str
    consumer_id: str
    fetched_at: float
    hostname: str
    delivery_info: Mapping[str, object]


def attempt_of_entry(bus: BusRuntime, queue: str, parts: EntryParts) -> DeliveryAttempt:
    """Make the attempt of a queue entry."""
    entry = QueueEntry.parse(parts.text)
    options = entry.options
    return DeliveryAttempt(
        bus,
        parts.delivery_id,
        entry.subscription,
        queue,
        LazyDocument(entry.body or parts.event),
        worker=parts.hostname,
        message_group=options.get("group"),
        replay_id=options.get("replay"),
        letter_id=options.get("letter"),
        lease=Lease(parts.tag, parts.consumer_id, is_entry=True),
        entry=entry,
        fetched_at=parts.fetched_at,
    )


def begin(attempt: DeliveryAttempt, *, abortable: tuple[str, str] | None = None) -> DeliveryAttempt:
    """Record that an attempt begins; return it with its history and the time of its beginning.

    Args:
        attempt: the attempt.
        abortable: the agent and the flow, if an operator or an error may have aborted them.

    Raises:
        Reject: the store is unreachable; the broker redelivers the message.
    """
    stores, lease = attempt.bus.stores, attempt.lease
    attempt = replace(attempt, began_ms=int(attempt.bus.now().timestamp() * 1_000))
    try:
        if attempt.entry is not None and lease is not None:
            return _begin_entry(attempt, attempt.entry, lease, abortable)
        history = stores.attempts.begin(
            attempt.delivery_id,
            attempt.worker,
            consumer=lease.consumer if lease else "",
            max_crashes=attempt.bus.settings.max_delivery_crashes,
            abortable=abortable,
            lease=attempt_lease(attempt.bus),
        )
    except RedisError as error:
        requeue(attempt, error)
    return replace(attempt, history=history)


def attempt_lease(bus: BusRuntime) -> timedelta | None:
    """Return for how long an attempt runs without a sign of its worker; None for a broker that has leases."""
    if bus.driver != RABBITMQ:
        return None
    return timedelta(seconds=max(bus.settings.visibility_timeout_s, MIN_ATTEMPT_LEASE_S))


def _begin_entry(
    attempt: DeliveryAttempt, entry: QueueEntry, lease: Lease, abortable: tuple[str, str] | None
) -> DeliveryAttempt:
    """Begin the attempt of a queue entry. One that was fetched just now needs no round trip."""
    earlier = read_attempts(entry)
    crashes = entry.crashes or 0
    earlier += tuple(FailedAttempt(at=clock.now(), worker="") for _ in range(crashes))
    is_poison = crashes >= attempt.bus.settings.max_delivery_crashes
    history = AttemptHistory(earlier, is_poison=is_poison)
    is_recent = lease_clock() - attempt.fetched_at < MAX_CHECK_AGE_S
    if is_poison or (entry.crashes is None and is_recent and attempt.fetched_at > last_abort(attempt.bus)):
        return replace(attempt, history=history)
    is_marked = entry.crashes is not None
    match attempt.bus.stores.deliveries.begin(lease, is_marked=is_marked, abortable=abortable):
        case "lease_lost":
            history = AttemptHistory(is_settled=True)
        case "aborted":
            history = AttemptHistory(is_aborted=True)
    return replace(attempt, history=history)


def read_attempts(entry: QueueEntry) -> tuple[FailedAttempt, ...]:
    """Read the failed attempts of a delivery."""
    return tuple(FailedAttempt.model_validate(attempt) for attempt in entry.options.get("attempts", ()))


class _Aborts:
    """When this process aborted a flow last (`lease_clock`)."""

    def __init__(self, _: BusRuntime) -> None:
        self.last = 0.0


def last_abort(bus: BusRuntime) -> float:
    """Return when this process aborted a flow last; deliveries fetched before are checked again."""
    return bus.resource(_Aborts).last


def record_abort(bus: BusRuntime) -> None:
    """Have the deliveries that this process has fetched checked again, because a flow was aborted."""
    bus.resource(_Aborts).last = lease_clock()


def load_history(attempt: DeliveryAttempt) -> DeliveryAttempt:
    """Return an attempt that another process began, with the history of earlier ones."""
    if attempt.entry is not None:
        return replace(attempt, history=AttemptHistory(read_attempts(attempt.entry)))
    attempts = attempt.bus.stores.attempts.read(attempt.delivery_id)
    return replace(attempt, history=AttemptHistory(attempts[:-1]))


def settle(
    attempt: DeliveryAttempt,
    events: Sequence[ValidatedEvent] = (),
    delayed: Sequence[DelayedMessage] = (),
    *,
    state: Mapping[str, str] = MappingProxyType({}),
) -> Outcome:
    """Publish an attempt's events, store its agent's state, and mark the delivery as handled, in one commit.

    Args:
        attempt: the attempt.
        events: the events to publish.
        delayed: the events to publish later.
        state: the values that the handler set in its agent's state.

    Returns:
        HANDLED, or LEASE_LOST if another worker has the delivery by now; then nothing was published or stored.

    Raises:
        Reject: broker or store is unreachable; the broker redelivers the message.
        QueueFull: a subscriber's queue is full.
    """
    try:
        settlement = replace(attempt.settlement, agent=attempt.queue, state=state) if state else attempt.settlement
        commit_when_reachable(attempt, events, settlement, delayed)
    except LeaseLost as lost:
        attempt.emit(DeliveryLeaseLost, error=error_text(lost))
        return Outcome.LEASE_LOST
    except (BrokerUnavailable, StateStoreUnavailable) as error:
        requeue(attempt, error)
    return Outcome.HANDLED


def commit_when_reachable(
    attempt: DeliveryAttempt,
    events: Sequence[ValidatedEvent],
    settlement: Settlement,
    delayed: Sequence[DelayedMessage] = (),
) -> None:
    """Commit an outcome, during an outage again until OUTAGE_TIMEOUT_S: a requeued delivery would run once more."""
    deadline = time.monotonic() + OUTAGE_TIMEOUT_S
    while True:
        try:
            commit(attempt.bus, events, settlement=settlement, delayed=delayed)
        except (BrokerUnavailable, StateStoreUnavailable):
            if time.monotonic() > deadline:
                raise
            time.sleep(REQUEUE_PAUSE_S)
        else:
            return


def is_settled_by_ack(attempt: DeliveryAttempt) -> bool:
    """Return whether the acknowledgement can mark the delivery: its settlement has nothing else to do."""
    return attempt.entry is not None and not (attempt.message_group or attempt.letter_id)


def requeue(attempt: DeliveryAttempt, error: Exception) -> NoReturn:
    """Discard the attempt and return the message to the broker. Raises Reject."""
    try:
        if attempt.entry is None:
            attempt.bus.stores.attempts.discard_last(attempt.delivery_id)
    except RedisError as failure:
        # The attempt counts as a crash until another attempt of the delivery is settled.
        attempt.report("attempt.discard_failed", failure)
    # The broker redelivers at once, so a pause here keeps an outage from causing a busy loop.
    time.sleep(REQUEUE_PAUSE_S)
    raise Reject(error, requeue=True) from error
