"""Settlement: end a delivery attempt. Every attempt starts with `build_attempt` and `begin`.

    handled          publish the handler's events and mark the delivery (`settle`)
    retrying         the attempt failed; schedule the next one (`settle_failure`; tasks/settlement/retry_policy.py)
    deferred         schedule the next attempt without using one (`settle_failure`)
    dead-lettered    the last attempt failed; store a dead letter (`settle_failure`, `dead_letter_unhandled`)
    requeued         the outcome could not be stored; the broker redelivers the message (`requeue`)

A failed delivery is acknowledged only when its retry or its dead letter is stored. If building one fails, a letter
without traceback and notices is stored (`build_bare_dead_letter`); if that fails too, the message is requeued.

If broker and state store are the same Redis, one commit stores the outcome and acknowledges the message. With other
brokers the acknowledgement follows the commit, and a crash in between repeats the attempt.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from celery.exceptions import Reject, Retry
from redis.exceptions import RedisError

from petiole.events.dead_letter import Cause, FailedAttempt
from petiole.events.errors import BrokerUnavailable, LeaseLost, StateStoreUnavailable, error_type_of
from petiole.events.event import Event
from petiole.events.texts import error_text, safe_text
from petiole.tasks.broker.messages import replay_number
from petiole.tasks.broker.topology import RABBITMQ
from petiole.tasks.instrumentation import (
    DeliveryDeferred,
    DeliveryLeaseLost,
    DeliveryRecord,
    DeliveryRetrying,
    OperationFailed,
)
from petiole.tasks.publishing.commit import commit
from petiole.tasks.publishing.delayed import build_delayed_delivery, build_delayed_message
from petiole.tasks.publishing.document import ValidatedEvent
from petiole.tasks.settlement.dead_lettering import build_bare_dead_letter, build_dead_letter, dead_letter
from petiole.tasks.settlement.outcomes import DeadLettered, Outcome
from petiole.tasks.settlement.retry_policy import Defer, GiveUp, RetryAfter, RetryPolicy, decide
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

MAX_ATTEMPT_TEXT_LENGTH = 500
"""The most characters of the error of one attempt, because a queue entry carries all earlier attempts."""

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
    lease: Lease | None = None
    entry: QueueEntry | None = None
    fetched_at: float = 0.0
    history: AttemptHistory = field(default_factory=AttemptHistory)

    @property
    def document(self) -> object:
        """The event's JSON object, or what a foreign message has in its place."""
        return self.event.value if isinstance(self.event, LazyDocument) else self.event

    def emit(self, record: type[DeliveryRecord], **facts: object) -> None:
        """Emit a record of this delivery."""
        if not self.bus.instrumentation.wants(record):
            return
        document: Mapping[str, object] = {}
        with suppress(ValueError, RecursionError):
            document = self.document if isinstance(self.document, Mapping) else {}
        names = ("event_type", "event_id", "stream_id", "correlation_id")
        event = {name: safe_text(document[name]) for name in names if name in document}
        delivery = {"delivery_id": self.delivery_id, "subscription": self.task}
        self.bus.instrumentation.emit(record(**delivery, **event, **facts))  # type: ignore[arg-type]  # by field name

    @property
    def settlement(self) -> Settlement:
        """The settlement of this delivery as handled; other outcomes replace its fields."""
        return Settlement(
            delivery_id=self.delivery_id,
            message_group=self.message_group,
            lease=self.lease,
            resolved_letter_id=self.letter_id,
            replay_number=replay_number(self.replay_id),
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
    """Record that an attempt begins; return it with its history.

    Args:
        attempt: the attempt.
        abortable: the agent and the flow, if an operator or an error may have aborted them.

    Raises:
        Reject: the store is unreachable; the broker redelivers the message.
    """
    stores, lease = attempt.bus.stores, attempt.lease
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


def defer_copy(attempt: DeliveryAttempt, event: Event, running_for: timedelta) -> NoReturn:
    """Let a copy of a delivery that another attempt handles wait until that attempt's lease would be over.

    Raises:
        Retry: the copy waits; the broker forgets it.
        Reject: the store is unreachable; the broker redelivers the message.
    """
    due = datetime.now(UTC) + running_for
    copy = _build_retry(attempt, None, event, due=due, priority=event.priority)
    reason = "another worker still handles it"
    try:
        commit(attempt.bus, [], delayed=[copy])
    except (BrokerUnavailable, StateStoreUnavailable) as error:
        # Not `requeue`, which discards the attempt that runs.
        time.sleep(REQUEUE_PAUSE_S)
        raise Reject(error, requeue=True) from error
    attempt.emit(DeliveryDeferred, attempt=attempt.history.number, error=reason, due=due)
    raise Retry(reason, when=due)


def _begin_entry(
    attempt: DeliveryAttempt, entry: QueueEntry, lease: Lease, abortable: tuple[str, str] | None
) -> DeliveryAttempt:
    """Begin the attempt of a queue entry. One that was fetched just now needs no round trip."""
    earlier = read_attempts(entry)
    crashes = entry.crashes or 0
    earlier += tuple(FailedAttempt(at=datetime.now(UTC), worker="") for _ in range(crashes))
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
        _commit_when_reachable(attempt, events, settlement, delayed)
    except LeaseLost as lost:
        attempt.emit(DeliveryLeaseLost, error=error_text(lost))
        return Outcome.LEASE_LOST
    except (BrokerUnavailable, StateStoreUnavailable) as error:
        requeue(attempt, error)
    return Outcome.HANDLED


def _commit_when_reachable(
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


def settle_failure(
    attempt: DeliveryAttempt,
    error: Exception,
    policy: RetryPolicy,
    *,
    event: Event,
    priority: int,
    is_published: bool = True,
) -> NoReturn:
    """Settle a failed attempt as retrying, deferred or dead-lettered.

    Args:
        attempt: the failed attempt.
        error: the handler's error.
        policy: decides between retry and dead letter.
        event: the event that was handled.
        priority: the retry's priority, 0 to 9.
        is_published: False keeps the dead letter's notices off the bus (shadow handlers).

    Raises:
        Retry: the next attempt is scheduled.
        DeadLettered: no further attempt follows; the dead letter is stored.
        Reject: the outcome could not be stored; the broker redelivers the message.
    """
    attempts = (*attempt.history.earlier, _build_failed_attempt(attempt, error))
    cause: Cause = "failed"
    try:
        match decide(policy, error, attempt.history.number, random.random()):  # noqa: S311 - no secret
            case RetryAfter(after):
                _schedule_retry(attempt, error, after, event, priority, is_attempt=True)
            case Defer(after):
                _schedule_retry(attempt, error, after, event, priority, is_attempt=False)
            case GiveUp(cause):
                pass
    except (Retry, Reject):
        raise
    except Exception as failure:  # noqa: BLE001 - whatever an error's attributes cause; it is reported
        # Such as an error that says to try again after NaN seconds.
        _report(attempt, "retry.schedule_failed", failure)
    _dead_letter(attempt, error, cause, event=event, is_published=is_published, attempts=attempts)


def dead_letter_unhandled(
    attempt: DeliveryAttempt, error: Exception, cause: Cause, *, event: Event | None = None, is_published: bool = True
) -> NoReturn:
    """Dead-letter a delivery whose handler did not run. Raises DeadLettered, or Reject if it could not be stored."""
    _dead_letter(attempt, error, cause, event=event, is_published=is_published, attempts=attempt.history.earlier)


def _dead_letter(
    attempt: DeliveryAttempt,
    error: Exception,
    cause: Cause,
    *,
    event: Event | None,
    is_published: bool,
    attempts: Sequence[FailedAttempt],
) -> NoReturn:
    try:
        letter = build_dead_letter(
            attempt.bus,
            error,
            cause,
            delivery_id=attempt.delivery_id,
            subscription=attempt.task,
            queue=attempt.queue,
            document=attempt.document,
            attempts=attempts,
            letter_id=attempt.letter_id,
            message_group=attempt.message_group,
        )
        dead_letter(attempt.bus, letter, event=event, settlement=attempt.settlement, is_published=is_published)
    except LeaseLost as lost:
        attempt.emit(DeliveryLeaseLost, error=error_text(lost))
    except OUTAGES as outage:
        requeue(attempt, outage)
    except Exception as failure:  # noqa: BLE001 - whatever the error or the event contains; it is reported
        _report(attempt, "dead_letter.write_failed", failure)
        _store_bare_dead_letter(attempt, error, cause)
    raise DeadLettered(error) from error


def _store_bare_dead_letter(attempt: DeliveryAttempt, error: Exception, cause: Cause) -> None:
    """Store what is certain to be storable of a failure, or requeue the message. Raises Reject."""
    event = attempt.event.text if isinstance(attempt.event, LazyDocument) else attempt.event
    try:
        letter = build_bare_dead_letter(
            error,
            cause,
            delivery_id=attempt.delivery_id,
            subscription=attempt.task,
            queue=attempt.queue,
            event=event,
            letter_id=attempt.letter_id,
            message_group=attempt.message_group,
        )
        commit(attempt.bus, [], settlement=replace(attempt.settlement, outcome="dead_lettered", letter=letter))
    except LeaseLost as lost:
        attempt.emit(DeliveryLeaseLost, error=error_text(lost))
    except Exception as failure:  # noqa: BLE001 - without a letter the broker has the only copy
        requeue(attempt, failure)


def _report(attempt: DeliveryAttempt, operation: str, failure: Exception) -> None:
    record = OperationFailed(operation=operation, exception=failure, delivery_id=attempt.delivery_id)
    attempt.bus.instrumentation.emit(record)


def requeue(attempt: DeliveryAttempt, error: Exception) -> NoReturn:
    """Discard the attempt and return the message to the broker. Raises Reject."""
    try:
        if attempt.entry is None:
            attempt.bus.stores.attempts.discard_last(attempt.delivery_id)
    except RedisError as failure:
        # The attempt counts as a crash until another attempt of the delivery is settled.
        _report(attempt, "attempt.discard_failed", failure)
    # The broker redelivers at once, so a pause here keeps an outage from causing a busy loop.
    time.sleep(REQUEUE_PAUSE_S)
    raise Reject(error, requeue=True) from error


def _schedule_retry(
    attempt: DeliveryAttempt, error: Exception, after: timedelta, event: Event, priority: int, *, is_attempt: bool
) -> NoReturn:
    due = attempt.bus.now() + after
    failed = _build_failed_attempt(attempt, error) if is_attempt else None
    retry_message = _build_retry(attempt, failed, event, due=due, priority=priority)
    settlement = replace(
        attempt.settlement,
        outcome="retrying" if is_attempt else "deferred",
        failed_attempt=failed,
        retry_message=retry_message,
    )
    try:
        _commit_when_reachable(attempt, [], settlement)
    except LeaseLost as lost:
        attempt.emit(DeliveryLeaseLost, error=error_text(lost))
    except OUTAGES as outage:
        requeue(attempt, outage)
    record = DeliveryRetrying if is_attempt else DeliveryDeferred
    attempt.emit(record, attempt=attempt.history.number, error=error_text(error), due=due)
    # Celery's exception: the task's state becomes RETRY, and Celery acknowledges the message.
    raise Retry(exc=error, when=due) from error


def _build_retry(
    attempt: DeliveryAttempt, failed: FailedAttempt | None, event: Event, *, due: datetime, priority: int
) -> DelayedMessage:
    if attempt.entry is not None:
        earlier = [*attempt.entry.options.get("attempts", ()), *([failed.model_dump(mode="json")] if failed else ())]
        options = {**attempt.entry.options, "attempts": earlier}
        body = json.dumps(attempt.document, ensure_ascii=False).encode() if not attempt.entry.reference else b""
        entry = replace(attempt.entry, options=options, body=body)
        return build_delayed_delivery(
            attempt.bus, entry, delivery_id=attempt.delivery_id, due=due, queue=attempt.queue, priority=priority
        )
    return build_delayed_message(
        attempt.bus,
        attempt.task,
        json.dumps(attempt.document, ensure_ascii=False),
        item_id=attempt.delivery_id,
        task_id=attempt.delivery_id,
        due=due,
        queue=attempt.queue,
        priority=priority,
        displayed_arguments=event.event_type,
        retries=attempt.history.number if failed else attempt.history.number - 1,
        headers={
            MESSAGE_GROUP_HEADER: attempt.message_group,
            REPLAY_HEADER: attempt.replay_id,
            DEAD_LETTER_HEADER: attempt.letter_id,
        },
        replaces=True,
    )


def _build_failed_attempt(attempt: DeliveryAttempt, error: Exception) -> FailedAttempt:
    return FailedAttempt(
        at=datetime.now(UTC),
        worker=attempt.worker,
        error_type=error_type_of(error),
        error=safe_text(error_text(error), MAX_ATTEMPT_TEXT_LENGTH),
    )
