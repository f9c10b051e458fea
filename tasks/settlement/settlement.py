"""Endings: how a run ends, whatever it ran.

    handled     what it said is published, and the delivery is marked
    retrying    it failed, and comes again after a while (retries.py decides)
    put off     it comes again after a while, and no attempt was spent
    buried      it failed for good, and is kept as a dead letter
    put back    nothing could be noted of its end: the broker keeps the message

Each is one step where the broker and the state store are the same Redis, and the message is acknowledged in that step.
Elsewhere the end is noted first, and the acknowledgement follows: a crash in between repeats the run.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

from celery.exceptions import Reject, Retry
from redis.exceptions import RedisError

from petiole.events.dead_letter import Cause, FailedAttempt
from petiole.events.errors import BrokerUnavailable, LeaseLost, StateStoreUnavailable, error_type_of
from petiole.events.event import Event
from petiole.tasks.broker.messages import DEAD_LETTER_HEADER, MESSAGE_GROUP_HEADER, REPLAY_HEADER, replay_number
from petiole.tasks.instrumentation import (
    DeliveryDeferred,
    DeliveryLeaseLost,
    DeliveryRecord,
    DeliveryRetrying,
    OperationFailed,
)
from petiole.tasks.publishing.commit import commit
from petiole.tasks.publishing.delayed import build_delayed_message
from petiole.tasks.publishing.document import ValidatedEvent
from petiole.tasks.settlement import deduplication
from petiole.tasks.settlement.dead_lettering import build_dead_letter, dead_letter
from petiole.tasks.settlement.outcomes import Outcome
from petiole.tasks.settlement.retry_policy import Defer, GiveUp, RetryAfter, RetryPolicy, decide
from petiole.tasks.stores.attempts import AttemptHistory
from petiole.tasks.stores.delayed_messages import DelayedMessage
from petiole.tasks.stores.publications import Lease, Settlement
from petiole.tasks.transport.consumer_id import CHECKED_HEADER, CONSUMER_HEADER

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

REQUEUE_PAUSE_S = 0.5
"""How long a slot holds a message that the broker is to keep."""


@dataclass(frozen=True, slots=True)
class DeliveryAttempt:
    """One run of a task message: what this worker received, and what is known of earlier runs."""

    bus: BusRuntime = field(repr=False)
    delivery_id: str
    task: str
    queue: str
    document: object
    worker: str = ""
    message_group: str | None = None
    replay_id: str | None = None
    letter_id: str | None = None
    lease: Lease | None = None
    checked_at: float | None = None
    history: AttemptHistory = field(default_factory=AttemptHistory)

    def emit(self, record: type[DeliveryRecord], **facts: object) -> None:
        """Tell the listeners what happened to this delivery."""
        document = self.document if isinstance(self.document, Mapping) else {}
        named = ("event_type", "event_id", "stream_id", "correlation_id")
        event = {name: str(document[name]) for name in named if name in document}
        delivery = {"delivery_id": self.delivery_id, "subscription": self.task}
        self.bus.instrumentation.emit(record(**delivery, **event, **facts))  # type: ignore[arg-type]  # as named

    @property
    def settling(self) -> Settlement:
        """Say that the delivery is over."""
        return Settlement(
            delivery_id=self.delivery_id,
            message_group=self.message_group,
            lease=self.lease,
            resolved_letter_id=self.letter_id,
            replay_number=replay_number(self.replay_id),
        )


def receive(bus: BusRuntime, request: Any, *, task: str, queue: str, document: object) -> DeliveryAttempt:
    """Make the run of a task request of Celery's."""
    holder = request.get(CONSUMER_HEADER)
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
        lease=Lease(tag, holder) if holder and tag else None,
        checked_at=request.get(CHECKED_HEADER) if holder and tag else None,
    )


def begin(attempt: DeliveryAttempt, *, abortable: tuple[str, str] | None = None) -> DeliveryAttempt:
    """Note that the run begins; returns it with what is known of earlier ones. Raises Reject where nobody can tell.

    `work` is the agent and the flow, where it may have been aborted.
    """
    if attempt.checked_at is not None:
        if attempt.bus.resource(deduplication.RecentDeliveries).is_check_valid(attempt.checked_at):
            return attempt
        if attempt.bus.resource(deduplication.RecentDeliveries).was_handled(attempt.delivery_id):
            return replace(attempt, history=AttemptHistory(is_settled=True))
    stores, lease = attempt.bus.stores, attempt.lease
    try:
        begun = stores.attempts.begin(
            attempt.delivery_id,
            attempt.worker,
            consumer=lease.consumer if lease else "",
            consumers_key=stores.unacked_keys.consumers if lease and attempt.bus.publishes_atomically else "",
            max_crashes=attempt.bus.settings.max_delivery_crashes,
            abortable=abortable,
        )
    except RedisError as error:
        requeue(attempt, error)
    return replace(attempt, history=begun)


def load_history(attempt: DeliveryAttempt) -> DeliveryAttempt:
    """Return a run that has begun, elsewhere, with what is known of those before it."""
    noted = attempt.bus.stores.attempts.read(attempt.delivery_id)
    return replace(attempt, history=AttemptHistory(noted[:-1]))


def settle(
    attempt: DeliveryAttempt,
    events: Sequence[ValidatedEvent] = (),
    delayed: Sequence[DelayedMessage] = (),
    *,
    state: Mapping[str, str] = MappingProxyType({}),
) -> Outcome:
    """Publish what a run said, keep what its agent set, and end its delivery.

    Raises Reject where the broker is away, QueueFull.
    """
    try:
        settling = replace(attempt.settling, agent=attempt.queue, state=state) if state else attempt.settling
        commit(attempt.bus, events, settlement=settling, delayed=delayed)
    except LeaseLost as lost:
        attempt.emit(DeliveryLeaseLost, error=str(lost))
        return Outcome.LEASE_LOST
    except (BrokerUnavailable, StateStoreUnavailable) as error:
        requeue(attempt, error)
    return Outcome.HANDLED


def is_settled_by_ack(attempt: DeliveryAttempt) -> bool:
    """Tell whether the message's acknowledgement marks the delivery: where nothing else is to be done at its end."""
    return attempt.checked_at is not None and not (attempt.message_group or attempt.replay_id or attempt.letter_id)


def settle_failure(
    attempt: DeliveryAttempt,
    error: Exception,
    policy: RetryPolicy,
    *,
    event: Event,
    priority: int,
    is_published: bool = True,
) -> NoReturn:
    """End a run that failed: it comes again, or is buried. Raises Retry, the error itself, or Reject."""
    match decide(policy, error, attempt.history.number, random.random()):  # noqa: S311 - no secret
        case RetryAfter(after):
            _schedule_retry(attempt, error, after, event, priority, is_attempt=True)
        case Defer(after):
            _schedule_retry(attempt, error, after, event, priority, is_attempt=False)
        case GiveUp(cause):
            _dead_letter(
                attempt,
                error,
                cause,
                event=event,
                is_published=is_published,
                attempts=(*attempt.history.earlier, _build_failed_attempt(attempt, error)),
            )
    raise error


def dead_letter_unhandled(
    attempt: DeliveryAttempt, error: Exception, cause: Cause, *, event: Event | None = None, is_published: bool = True
) -> None:
    """Bury the delivery of a run that no handler saw. Raises Reject where the letter cannot be kept."""
    _dead_letter(attempt, error, cause, event=event, is_published=is_published, attempts=attempt.history.earlier)


def _dead_letter(
    attempt: DeliveryAttempt,
    error: Exception,
    cause: Cause,
    *,
    event: Event | None,
    is_published: bool,
    attempts: Sequence[FailedAttempt],
) -> None:
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
    try:
        dead_letter(attempt.bus, letter, event=event, settlement=attempt.settling, is_published=is_published)
    except LeaseLost as lost:
        attempt.emit(DeliveryLeaseLost, error=str(lost))
    except (RedisError, BrokerUnavailable, StateStoreUnavailable) as unwritten:
        requeue(attempt, unwritten)


def requeue(attempt: DeliveryAttempt, error: Exception) -> NoReturn:
    """Leave the message with the broker, as if the run had not been. Raises Reject."""
    try:
        attempt.bus.stores.attempts.discard_last(attempt.delivery_id)
    except RedisError as unnoted:
        # It looks as if the worker had died, until a run of the same delivery ends.
        failed = OperationFailed(operation="attempt.discard_failed", exception=unnoted, delivery_id=attempt.delivery_id)
        attempt.bus.instrumentation.emit(failed)
    # The next try is not this instant's: what is wrong is the broker, and it is taken again at once.
    time.sleep(REQUEUE_PAUSE_S)
    raise Reject(error, requeue=True) from error


def _schedule_retry(
    attempt: DeliveryAttempt, error: Exception, after: timedelta, event: Event, priority: int, *, is_attempt: bool
) -> NoReturn:
    due = datetime.now(UTC) + after
    again = build_delayed_message(
        attempt.bus,
        attempt.task,
        json.dumps(attempt.document, ensure_ascii=False),
        item_id=attempt.delivery_id,
        task_id=attempt.delivery_id,
        due=due,
        queue=attempt.queue,
        priority=priority,
        displayed_arguments=event.event_type,
        retries=attempt.history.number if is_attempt else attempt.history.number - 1,
        headers={
            MESSAGE_GROUP_HEADER: attempt.message_group,
            REPLAY_HEADER: attempt.replay_id,
            DEAD_LETTER_HEADER: attempt.letter_id,
        },
        replaces=True,
    )
    settling = replace(
        attempt.settling,
        outcome="retrying" if is_attempt else "deferred",
        failed_attempt=_build_failed_attempt(attempt, error) if is_attempt else None,
        retry_message=again,
    )
    try:
        commit(attempt.bus, [], settlement=settling)
    except LeaseLost as lost:
        attempt.emit(DeliveryLeaseLost, error=str(lost))
    except (BrokerUnavailable, StateStoreUnavailable) as unnoted:
        requeue(attempt, unnoted)
    record = DeliveryRetrying if is_attempt else DeliveryDeferred
    attempt.emit(record, attempt=attempt.history.number, error=str(error), due=due)
    # How Celery calls it: the task is seen as retried, and its message is acknowledged.
    raise Retry(exc=error, when=due) from error


def _build_failed_attempt(attempt: DeliveryAttempt, error: Exception) -> FailedAttempt:
    return FailedAttempt(at=datetime.now(UTC), worker=attempt.worker, error_type=error_type_of(error), error=str(error))
