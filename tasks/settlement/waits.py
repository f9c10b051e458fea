"""Waits: record why a delivery waits for another attempt, or how it ended if it was not handled, for later traces."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from petiole.events.errors import RateLimitExceeded, RetryLater, ServiceUnavailable, error_type_of
from petiole.events.texts import error_text, safe_text
from petiole.tasks.stores.delivery_waits import DeliveryEnd, DeliveryWait, WaitReason

if TYPE_CHECKING:
    from petiole.tasks.settlement.settlement import DeliveryAttempt

MAX_ERROR_LENGTH = 200
"""The most characters of an error that a wait keeps."""


def record_wait(attempt: DeliveryAttempt, error: Exception, due: datetime) -> None:
    """Record a wait. Raises nothing: a wait that could not be recorded is reported, and missing in traces."""
    reason, subject = classify_wait(error)
    wait = DeliveryWait(
        reason=reason,
        began_ms=attempt.began_ms,
        at_ms=_epoch_ms(attempt.bus.now()),
        due_ms=_epoch_ms(due),
        subject=subject,
        worker=attempt.worker,
        error_type=error_type_of(error),
        error=safe_text(error_text(error), MAX_ERROR_LENGTH),
    )
    _record(attempt, wait)


def record_end(attempt: DeliveryAttempt, end: DeliveryEnd) -> None:
    """Record how a delivery ended that was not handled. Raises nothing, as `record_wait`."""
    now_ms = _epoch_ms(attempt.bus.now())
    _record(attempt, DeliveryWait(reason=end, at_ms=now_ms, due_ms=now_ms, worker=attempt.worker))


def _record(attempt: DeliveryAttempt, wait: DeliveryWait) -> None:
    try:
        attempt.bus.stores.delivery_waits.add(attempt.delivery_id, wait)
    except RedisError as failure:
        attempt.report("wait.record_failed", failure)


def classify_wait(error: Exception) -> tuple[WaitReason, str]:
    """Return why a delivery waits whose attempt ended in an error, and for which dependency or account."""
    match error:
        case ServiceUnavailable():
            return "breaker", error.service
        case RateLimitExceeded():
            return "budget", error.account
        case RetryLater(code="service_throttled"):
            return "budget", ""
        case RetryLater():
            return "deferred", ""
        case _:
            return "retry", ""


def _epoch_ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000)
