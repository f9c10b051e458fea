"""Failures: settle an attempt that failed as retrying, deferred or dead-lettered.

A failed delivery is acknowledged only when its retry or its dead letter is stored. If building one fails, a letter
without traceback and notices is stored (`build_bare_dead_letter`); if that fails too, the message is requeued.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NoReturn

from celery.exceptions import Reject, Retry

from petiole.events import clock
from petiole.events.dead_letter import Cause, FailedAttempt
from petiole.events.errors import BrokerUnavailable, LeaseLost, StateStoreUnavailable, error_type_of
from petiole.events.event import Event
from petiole.events.texts import error_text, safe_text
from petiole.tasks.instrumentation import DeliveryDeadLettered, DeliveryDeferred, DeliveryLeaseLost, DeliveryRetrying
from petiole.tasks.publishing.commit import commit
from petiole.tasks.publishing.delayed import build_delayed_delivery, build_delayed_message
from petiole.tasks.settlement.dead_lettering import build_bare_dead_letter, build_dead_letter, dead_letter
from petiole.tasks.settlement.exits import reportable
from petiole.tasks.settlement.outcomes import DeadLettered
from petiole.tasks.settlement.retry_policy import Defer, GiveUp, RetryAfter, RetryPolicy, decide
from petiole.tasks.settlement.settlement import (
    OUTAGES,
    REQUEUE_PAUSE_S,
    DeliveryAttempt,
    LazyDocument,
    commit_when_reachable,
    requeue,
)
from petiole.tasks.settlement.waits import record_end, record_wait
from petiole.tasks.stores.delayed_messages import DelayedMessage
from petiole.tasks.stores.deliveries import DEAD_LETTER_HEADER, MESSAGE_GROUP_HEADER, REPLAY_HEADER

MAX_ATTEMPT_TEXT_LENGTH = 500
"""The most characters of the error of one attempt, because a queue entry carries all earlier attempts."""


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
        attempt.report("retry.schedule_failed", failure)
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
        record_end(attempt, "dead_lettered")  # its letter may be deleted before its event
    except LeaseLost as lost:
        attempt.emit(DeliveryLeaseLost, error=error_text(lost))
    except OUTAGES as outage:
        requeue(attempt, outage)
    except Exception as failure:  # noqa: BLE001 - whatever the error or the event contains; it is reported
        attempt.report("dead_letter.write_failed", failure)
        _store_bare_dead_letter(attempt, error, cause)
    raise DeadLettered(reportable(error)) from error


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
        attempt.emit(DeliveryDeadLettered, cause=cause, error=letter.error, exception=error)
    except LeaseLost as lost:
        attempt.emit(DeliveryLeaseLost, error=error_text(lost))
    except Exception as failure:  # noqa: BLE001 - without a letter the broker has the only copy
        requeue(attempt, failure)


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
        commit_when_reachable(attempt, [], settlement)
    except LeaseLost as lost:
        attempt.emit(DeliveryLeaseLost, error=error_text(lost))
    except OUTAGES as outage:
        requeue(attempt, outage)
    else:
        record = DeliveryRetrying if is_attempt else DeliveryDeferred
        attempt.emit(record, error=error_text(error), due=due)
        record_wait(attempt, error, due)
    # Celery's exception: the task's state becomes RETRY, and Celery acknowledges the message.
    raise Retry(exc=reportable(error), when=due) from error


def _build_retry(
    attempt: DeliveryAttempt, failed: FailedAttempt | None, event: Event, *, due: datetime, priority: int
) -> DelayedMessage:
    if attempt.entry is not None:
        earlier = [*attempt.entry.options.get("attempts", ()), *([failed.model_dump(mode="json")] if failed else ())]
        options = {**attempt.entry.options, "attempts": earlier, "due": int(due.timestamp() * 1_000)}
        body = json.dumps(attempt.document, ensure_ascii=False).encode() if attempt.entry.has_own_event else b""
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
        at=clock.now(),
        worker=attempt.worker,
        error_type=error_type_of(error),
        error=safe_text(error_text(error), MAX_ATTEMPT_TEXT_LENGTH),
    )


def defer_copy(attempt: DeliveryAttempt, event: Event, running_for: timedelta) -> NoReturn:
    """Let a copy of a delivery that another attempt handles wait until that attempt's lease would be over.

    Raises:
        Retry: the copy waits; the broker forgets it.
        Reject: the store is unreachable; the broker redelivers the message.
    """
    due = attempt.bus.now() + running_for
    copy = _build_retry(attempt, None, event, due=due, priority=event.priority)
    reason = "another worker still handles it"
    try:
        commit(attempt.bus, [], delayed=[copy])
    except (BrokerUnavailable, StateStoreUnavailable) as error:
        # Not `requeue`, which discards the attempt that runs.
        time.sleep(REQUEUE_PAUSE_S)
        raise Reject(error, requeue=True) from error
    attempt.emit(DeliveryDeferred, error=reason, due=due)
    raise Retry(reason, when=due)
