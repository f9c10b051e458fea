"""Trying: how a guarded call is tried again here, while its handler holds its slot; by tenacity, for seconds at most.

What takes longer than that is the delivery's to wait for: it holds no slot meanwhile (retries.py).
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from tenacity import RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.stop import stop_base
from tenacity.wait import wait_exponential_jitter

from petiole.tasks.handling import time_limits
from petiole.tasks.handling.current import current_context
from petiole.tasks.resilience.error_classification import is_worth_retrying, retry_after


def retry_options(
    attempts: int, first_wait: timedelta, max_wait: timedelta, ignored_errors: tuple[type[Exception], ...]
) -> dict[str, Any]:
    """Tell tenacity what to try again, when, and how often: as the options of guarded say."""
    first_s, longest_s = first_wait.total_seconds(), max_wait.total_seconds()
    backoff = wait_exponential_jitter(multiplier=first_s, max=longest_s, jitter=first_s)
    return {
        "retry": retry_if_exception(lambda error: is_worth_retrying(error, ignored_errors)),
        "wait": lambda state: max(backoff(state), requested_wait_s(_error_of(state))),
        "stop": stop_after_attempt(attempts) | _StopBeforeTimeout(longest_s),
        "reraise": True,
    }


class _StopBeforeTimeout(stop_base):
    """Stops before a wait that is longer than one may wait here, or than what is left of the delivery's time."""

    def __init__(self, max_wait_s: float) -> None:
        self._longest_s = max_wait_s

    def __call__(self, state: RetryCallState) -> bool:
        return state.upcoming_sleep > self._longest_s or state.upcoming_sleep >= _remaining_s()


def requested_wait_s(error: BaseException | None) -> float:
    """Read how long the server asked to wait that an error came from."""
    asked = retry_after(error) if error is not None else None
    return asked.total_seconds() if asked else 0.0


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _remaining_s() -> float:
    """Tell how long the delivery at hand may still take."""
    left_s = time_limits.remaining_s()
    context = current_context()
    expires_at = context.event.expires_at if context else None
    until_expiry_s = math.inf if expires_at is None else (expires_at - datetime.now(UTC)).total_seconds()
    return min(math.inf if left_s is None else left_s, until_expiry_s)
