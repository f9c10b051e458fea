"""Retry policy: decide how a failed attempt ends. Pure; tasks/settlement/settlement.py acts on the decision.

    @memory.on("input.*", retry=RetryPolicy(max_attempts=5, base=0.5))

    RetryAfter    retry after base * factor ** (attempt - 1) seconds, at most `cap`, plus or minus `jitter`
    Defer         the handler raised RetryLater or returned `later(5)`: retry after that time, without using an attempt
    GiveUp        dead-letter: the last attempt failed, or the error is permanent (UsageError, Permanent, and the
                  classes that the policy names)

A delivery waits for its retry as a delayed message (tasks/stores/delayed_messages.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from petiole.events.content import Duration
from petiole.events.dead_letter import Cause
from petiole.events.errors import InvalidSchedule, Permanent, RetryLater, UsageError
from petiole.events.errors.base import describe
from petiole.events.validation import invalid_argument

MAX_WAIT = timedelta(days=366)

WaitDuration = Annotated[Duration, Field(ge=timedelta(0), le=MAX_WAIT)]


class RetryPolicy(BaseModel):
    """How often a failed delivery is retried, and after which delays.

    The default makes three attempts, at 0 s, 1 s and 3 s, plus or minus 10 %.

    Args:
        max_attempts: 1 to 1000.
        base: delay after the first attempt; a timedelta or seconds, as `cap`.
        factor: how much the delay grows with each attempt, 1 to 100.
        cap: the longest delay.
        jitter: random share of the delay that is added or subtracted, 0 to 1.
        permanent: exception classes that are never retried.

    Raises:
        UsageError: invalid_option.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, defer_build=True)

    max_attempts: Annotated[int, Field(strict=True, ge=1, le=1_000)] = 3
    base: WaitDuration = timedelta(seconds=1)
    factor: Annotated[float, Field(strict=True, ge=1, le=100, allow_inf_nan=False)] = 2.0
    cap: WaitDuration = timedelta(seconds=60)
    jitter: Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)] = 0.1
    permanent: tuple[type[Exception], ...] = ()

    def __init__(self, **options: object) -> None:
        try:
            super().__init__(**options)
        except ValidationError as error:
            raise invalid_argument("RetryPolicy", error) from error

    def wait_after(self, attempt: int, chance: float) -> timedelta:
        """Return the delay after the attempt of that number (from 1); `chance`, 0 to 1, sets the jitter."""
        # An exponent of 100 exceeds every cap, and larger ones would overflow a float.
        exponent = min(attempt - 1, 100)
        wait_s = min(self.base.total_seconds() * self.factor**exponent, self.cap.total_seconds())
        return timedelta(seconds=wait_s * (1 + self.jitter * (2 * chance - 1)))


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Retry after a delay."""

    after: timedelta


@dataclass(frozen=True, slots=True)
class Defer:
    """Retry after a delay, without using an attempt."""

    after: timedelta


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Dead-letter the delivery."""

    cause: Cause


RetryDecision: TypeAlias = RetryAfter | Defer | GiveUp


def decide(policy: RetryPolicy, error: BaseException, attempt: int, chance: float) -> RetryDecision:
    """Decide how a delivery continues whose attempt of that number (from 1) ended in an error."""
    match error:
        case RetryLater():
            return Defer(timedelta(seconds=error.after_s))
        case Permanent() | UsageError():
            return GiveUp("permanent")
        case _ if isinstance(error, policy.permanent):
            return GiveUp("permanent")
        case _ if attempt >= policy.max_attempts:
            return GiveUp("failed")
        case _:
            return RetryAfter(policy.wait_after(attempt, chance))


@dataclass(frozen=True, slots=True)
class Later:
    """The return value of a handler that defers its event; made by `later`."""

    after_s: float


def later(after: float | timedelta) -> Later:
    """Return this from a handler to retry the delivery after so many seconds, without using an attempt.

    Raises InvalidSchedule if `after` is negative or over 366 days.
    """
    after_s: object = after.total_seconds() if isinstance(after, timedelta) else after
    is_number = isinstance(after_s, int | float) and not isinstance(after_s, bool)
    if not is_number or not 0 <= after_s <= MAX_WAIT.total_seconds():  # type: ignore[operator]  # a number
        raise InvalidSchedule("later", f"{describe(after)} is not within 0 s to {MAX_WAIT.days} days")
    return Later(float(after_s))  # type: ignore[arg-type]  # as above
