"""Waits: record why a delivery waits for another attempt, so that a trace can tell it afterwards."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from petiole.events.errors import RateLimitExceeded, RetryLater, ServiceUnavailable, error_type_of
from petiole.events.texts import error_text, safe_text
from petiole.tasks.stores.delivery_waits import DeliveryWait, WaitReason

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
