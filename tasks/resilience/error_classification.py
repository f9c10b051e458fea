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
from petiole.tasks.stores.circuits import CircuitOutcome

MAX_RETRY_AFTER = timedelta(hours=1)
"""A server that asks for more is asked again after this: one wrong header shall not park deliveries for ever."""

_NOT_SENT_ERRORS = (
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


def classify_outcome(error: BaseException | None, ignored_errors: tuple[type[Exception], ...] = ()) -> CircuitOutcome:
    """Say how a call ended that raised this, or nothing; `mistakes` are errors that are the caller's too."""
    if error is None:
        return "succeeded"
    if isinstance(error, ignored_errors):
        return "rejected"
    if isinstance(error, _NOT_SENT_ERRORS):
        return "not_sent"
    if isinstance(error, asyncio.CancelledError):
        # A handler's time limit cancels as well: then it was the dependency that took too long.
        left_s = time_limits.remaining_s()
        return "failed" if left_s is not None and left_s <= 0 else "not_sent"
    status = http_status_of(error)
    if status is not None:
        return "rejected" if 400 <= status < 500 and status != HTTPStatus.REQUEST_TIMEOUT else "failed"  # noqa: PLR2004 - as HTTP has them
    return "rejected" if isinstance(error, Permanent) else "failed"


def is_worth_retrying(error: BaseException, ignored_errors: tuple[type[Exception], ...] = ()) -> bool:
    """Tell whether the same call may succeed in a moment."""
    if not isinstance(error, Exception):
        return False
    return classify_outcome(error, ignored_errors) == "failed" or http_status_of(error) == HTTPStatus.TOO_MANY_REQUESTS


def http_status_of(error: BaseException) -> int | None:
    """Read the HTTP status that an error or one of its causes tells of."""
    for each in iterate_causes(error):
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
    for each in iterate_causes(error):
        headers = getattr(each, "headers", None) or getattr(getattr(each, "response", None), "headers", None)
        if headers is None or not hasattr(headers, "get"):
            continue
        if (asked := _parse_retry_after(headers)) is not None:
            return min(max(asked, timedelta(0)), MAX_RETRY_AFTER)
    return None


def _parse_retry_after(headers: Mapping[str, str]) -> timedelta | None:
    milliseconds = _parse_number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return timedelta(milliseconds=milliseconds)
    said = headers.get("retry-after") or headers.get("Retry-After")
    seconds = _parse_number(said)
    if seconds is not None:
        return timedelta(seconds=seconds)
    try:
        moment = parsedate_to_datetime(said) if said else None
    except ValueError:
        return None
    return None if moment is None else moment.astimezone(UTC) - datetime.now(UTC)


def _parse_number(text: str | None) -> float | None:
    try:
        number = float(text) if text else None
    except ValueError:
        return None
    return None if number is None else min(max(number, 0.0), MAX_RETRY_AFTER.total_seconds() * 1_000)


def iterate_causes(error: BaseException) -> Iterator[BaseException]:
    """List an error and what it was raised from."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__
