"""Blame: whose fault an error is, the dependency's or its caller's; read from the error and its causes.

    failed        it did not do its work: no connection, a time limit, a status of 5xx or 408, any other error
    answered      it works, and refuses this call: a status of 4xx, Permanent, and what the caller named as mistakes
    unreached     it was not called at all: UsageError, validation, a bug of the caller's, a refusal such as RetryLater;
                  or the caller was interrupted, which tells nothing

Libraries are known by what their errors carry, not by name: `status_code`, `status` or `code`, `response`, `headers`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from pydantic import ValidationError

from petiole.events.errors import Permanent, RetryLater, UsageError
from petiole.tasks.handling import time_limits
from petiole.tasks.stores.circuits import Ending

LONGEST_PAUSE = timedelta(hours=1)
"""A server that asks for more is asked again after this: one wrong header shall not park deliveries for ever."""

_UNREACHED = (
    UsageError,
    RetryLater,
    ValidationError,
    TypeError,
    AttributeError,
    NameError,
    AssertionError,
    NotImplementedError,
    GeneratorExit,
    KeyboardInterrupt,
    SystemExit,
)


def ending_of(error: BaseException | None, mistakes: tuple[type[Exception], ...] = ()) -> Ending:
    """Say how a call ended that raised this, or nothing; `mistakes` are errors that are the caller's too."""
    if error is None:
        return "ok"
    if isinstance(error, mistakes):
        return "answered"
    if isinstance(error, _UNREACHED):
        return "unreached"
    if isinstance(error, asyncio.CancelledError):
        # A handler's time limit cancels as well: then it was the dependency that took too long.
        left_s = time_limits.remaining_s()
        return "failed" if left_s is not None and left_s <= 0 else "unreached"
    status = status_of(error)
    if status is not None:
        return "answered" if 400 <= status < 500 and status != HTTPStatus.REQUEST_TIMEOUT else "failed"  # noqa: PLR2004 - as HTTP has them
    return "answered" if isinstance(error, Permanent) else "failed"


def is_worth_retrying(error: BaseException, mistakes: tuple[type[Exception], ...] = ()) -> bool:
    """Tell whether the same call may succeed in a moment."""
    if not isinstance(error, Exception):
        return False
    return ending_of(error, mistakes) == "failed" or status_of(error) == HTTPStatus.TOO_MANY_REQUESTS


def status_of(error: BaseException) -> int | None:
    """Read the HTTP status that an error or one of its causes tells of."""
    for each in with_causes(error):
        for teller in (each, getattr(each, "response", None)):
            for name in ("status_code", "status", "code"):
                status = getattr(teller, name, None)
                if isinstance(status, int) and 400 <= status <= 599:  # noqa: PLR2004 - as HTTP has them
                    return status
    return None


def retry_after(error: BaseException) -> timedelta | None:
    """Read for how long the server asks to be left alone: Retry-After, in seconds or as a date, or retry-after-ms.

    Source: RFC 9110, section 10.2.3; the latter is what OpenAI's client reads.
    """
    for each in with_causes(error):
        headers = getattr(each, "headers", None) or getattr(getattr(each, "response", None), "headers", None)
        if headers is None or not hasattr(headers, "get"):
            continue
        if (asked := _asked(headers)) is not None:
            return min(max(asked, timedelta(0)), LONGEST_PAUSE)
    return None


def _asked(headers: Mapping[str, str]) -> timedelta | None:
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return timedelta(milliseconds=milliseconds)
    said = headers.get("retry-after") or headers.get("Retry-After")
    seconds = _number(said)
    if seconds is not None:
        return timedelta(seconds=seconds)
    try:
        moment = parsedate_to_datetime(said) if said else None
    except ValueError:
        return None
    return None if moment is None else moment.astimezone(UTC) - datetime.now(UTC)


def _number(said: str | None) -> float | None:
    try:
        number = float(said) if said else None
    except ValueError:
        return None
    return None if number is None else min(max(number, 0.0), LONGEST_PAUSE.total_seconds() * 1_000)


def with_causes(error: BaseException) -> Iterator[BaseException]:
    """List an error and what it was raised from."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__
