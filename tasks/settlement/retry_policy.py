"""STATION 3, retry: what becomes of a delivery whose handler failed. Pure: it decides, and moves nothing.

    @memory.on("input.*", retry=RetryPolicy(max_attempts=5, base=0.5))

    retryable       tried again after base * factor ** (attempt - 1) seconds, at most `cap`, give or take `jitter`
    permanent       errors of ours that say so (UsageError, Permanent) and those that the policy names: given up at once
    later           RetryLater, or a handler that returns `later(5)`: put off, and no attempt is spent

Where it waits meanwhile: tasks/stores/delayed_messages.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from petiole.events.dead_letter import Cause
from petiole.events.errors import InvalidSchedule, Permanent, RetryLater, UsageError, invalid_option

LONGEST_WAIT = timedelta(days=366)

Wait = Annotated[timedelta, Field(ge=timedelta(0), le=LONGEST_WAIT)]


class RetryPolicy(BaseModel):
    """How often a delivery is tried, and how long it waits in between; durations as timedelta, or as seconds.

    With the default, handlers run at 0 s, 1 s and 3 s, give or take a tenth. Raises UsageError (invalid_option).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    max_attempts: Annotated[int, Field(strict=True, ge=1, le=1_000)] = 3
    base: Wait = timedelta(seconds=1)
    factor: Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)] = 2.0
    cap: Wait = timedelta(seconds=60)
    jitter: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.1
    permanent: tuple[type[Exception], ...] = ()

    def __init__(self, **options: object) -> None:
        try:
            super().__init__(**options)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(step) for step in first["loc"])
            raise invalid_option(f"retry.{field}", repr(first["input"]), f"{first['msg']}") from error

    def wait_after(self, attempt: int, chance: float) -> timedelta:
        """Say how long to wait after the attempt of that number (from 1); `chance`, 0 to 1, places it."""
        # Far beyond every cap, and no float overflows.
        exponent = min(attempt - 1, 100)
        wait_s = min(self.base.total_seconds() * self.factor**exponent, self.cap.total_seconds())
        return timedelta(seconds=wait_s * (1 + self.jitter * (2 * chance - 1)))


@dataclass(frozen=True, slots=True)
class Again:
    """Try again after a while; an attempt was spent."""

    after: timedelta


@dataclass(frozen=True, slots=True)
class PutOff:
    """Try again after a while; no attempt was spent."""

    after: timedelta


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Keep it as a dead letter."""

    cause: Cause


Verdict: TypeAlias = Again | PutOff | GiveUp


def verdict(policy: RetryPolicy, error: BaseException, attempt: int, chance: float) -> Verdict:
    """Decide what becomes of a delivery whose attempt of that number (from 1) ended in an error."""
    match error:
        case RetryLater():
            return PutOff(timedelta(seconds=error.after_s))
        case Permanent() | UsageError():
            return GiveUp("permanent")
        case _ if isinstance(error, policy.permanent):
            return GiveUp("permanent")
        case _ if attempt >= policy.max_attempts:
            return GiveUp("failed")
        case _:
            return Again(policy.wait_after(attempt, chance))


@dataclass(frozen=True, slots=True)
class Later:
    """What a handler returns that does not want its event yet."""

    after_s: float


def later(after: float | timedelta) -> Later:
    """Say from a handler, by returning this, that its event is to come again after so long (s); no attempt is spent.

    Raises InvalidSchedule.
    """
    after_s = after.total_seconds() if isinstance(after, timedelta) else float(after)
    if not 0 <= after_s <= LONGEST_WAIT.total_seconds():
        raise InvalidSchedule("later", f"{after!r} is not within 0 s to {LONGEST_WAIT.days} days")
    return Later(after_s)
