"""Options of tenacity for the retries of a guarded call within its handler.

These retries occupy a worker slot, so they wait for seconds at most. A longer wait defers the delivery, which occupies
no slot (tasks/settlement/retry_policy.py).
"""

from __future__ import annotations

import math
from datetime import timedelta
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
    """Build tenacity's options from those of `guarded`."""
    first_s, longest_s = first_wait.total_seconds(), max_wait.total_seconds()
    backoff = wait_exponential_jitter(multiplier=first_s, max=longest_s, jitter=first_s)
    return {
        "retry": retry_if_exception(lambda error: is_worth_retrying(error, ignored_errors)),
        "wait": lambda state: max(backoff(state), requested_wait_s(_error_of(state))),
        "stop": stop_after_attempt(attempts) | _StopBeforeTimeout(longest_s),
        "reraise": True,
    }


class _StopBeforeTimeout(stop_base):
    """Stop before a wait that exceeds `max_wait_s`, or the remaining time of the delivery."""

    def __init__(self, max_wait_s: float) -> None:
        self._longest_s = max_wait_s

    def __call__(self, state: RetryCallState) -> bool:
        return state.upcoming_sleep > self._longest_s or state.upcoming_sleep >= _remaining_s()


def requested_wait_s(error: BaseException | None) -> float:
    """Return the wait that the server requested with this error, in seconds; 0 if it requested none."""
    wait = retry_after(error) if error is not None else None
    return wait.total_seconds() if wait else 0.0


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _remaining_s() -> float:
    """Return the remaining time of the current delivery in seconds."""
    left_s = time_limits.remaining_s()
    context = current_context()
    until_expiry_s = math.inf
    if context is not None and context.event.expires_at is not None:
        until_expiry_s = (context.event.expires_at - context.bus.now()).total_seconds()
    return min(math.inf if left_s is None else left_s, until_expiry_s)
