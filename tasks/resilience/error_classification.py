"""Classify an error as the dependency's or the caller's, from the error and its causes.

    failed        the dependency failed: no connection, a time limit, a status of 5xx or 408, any other error
    answered      the dependency works and rejected this call: a status of 4xx, Permanent, an ignored error
    unreached     the dependency was not called: UsageError, a validation error, a bug in the caller, RetryLater; or the
                  caller was cancelled

The HTTP status is read from the attributes `status_code`, `status` or `code` of an error or of its `response`, and
headers from `headers`, so that errors of any client library are understood.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from pydantic import ValidationError

from petiole.events.errors import Permanent, RetryLater, UsageError
from petiole.tasks.handling import time_limits
from petiole.tasks.stores.circuits import CircuitOutcome

MAX_RETRY_AFTER = timedelta(hours=1)
"""The longest accepted Retry-After, so that one wrong header cannot defer deliveries for ever."""

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
    """Classify the outcome of a call that raised `error`, or None. `ignored_errors` do not count as failures."""
    if error is None:
        return "succeeded"
    if isinstance(error, ignored_errors):
        return "rejected"
    if isinstance(error, _NOT_SENT_ERRORS):
        return "not_sent"
    if isinstance(error, asyncio.CancelledError):
        # A handler's time limit cancels too; in that case the dependency took too long.
        left_s = time_limits.remaining_s()
        return "failed" if left_s is not None and left_s <= 0 else "not_sent"
    status = http_status_of(error)
    if status is not None:
        return "rejected" if 400 <= status < 500 and status != HTTPStatus.REQUEST_TIMEOUT else "failed"  # noqa: PLR2004 - HTTP's range
    return "rejected" if isinstance(error, Permanent) else "failed"


def is_worth_retrying(error: BaseException, ignored_errors: tuple[type[Exception], ...] = ()) -> bool:
    """Return whether an immediate retry may succeed."""
    if not isinstance(error, Exception):
        return False
    return classify_outcome(error, ignored_errors) == "failed" or http_status_of(error) == HTTPStatus.TOO_MANY_REQUESTS


def http_status_of(error: BaseException) -> int | None:
    """Return the HTTP status (400 to 599) of an error or of one of its causes; None if there is none."""
    for cause in iterate_causes(error):
        for source in (cause, getattr(cause, "response", None)):
            for name in ("status_code", "status", "code"):
                status = getattr(source, name, None)
                if isinstance(status, int) and 400 <= status <= 599:  # noqa: PLR2004 - HTTP's range
                    return status
    return None


def retry_after(error: BaseException) -> timedelta | None:
    """Read the wait that the server requested, at most one hour: Retry-After (seconds or a date), or retry-after-ms.

    A value that is no finite number and no date counts as absent.

    Source: RFC 9110, section 10.2.3; OpenAI's client reads retry-after-ms.
    """
    for cause in iterate_causes(error):
        headers = getattr(cause, "headers", None) or getattr(getattr(cause, "response", None), "headers", None)
        if headers is None or not hasattr(headers, "get"):
            continue
        if (wait := _parse_retry_after(headers)) is not None:
            return min(max(wait, timedelta(0)), MAX_RETRY_AFTER)
    return None


def _parse_retry_after(headers: Mapping[str, str]) -> timedelta | None:
    milliseconds = _parse_number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return timedelta(milliseconds=milliseconds)
    value = headers.get("retry-after") or headers.get("Retry-After")
    seconds = _parse_number(value)
    if seconds is not None:
        return timedelta(seconds=seconds)
    try:
        return parsedate_to_datetime(value).astimezone(UTC) - _server_time(headers) if value else None
    except (ValueError, TypeError, OverflowError):
        return None


def _server_time(headers: Mapping[str, str]) -> datetime:
    """Return the time at the server that sent the headers; without a valid Date header, the time here."""
    value = headers.get("date") or headers.get("Date")
    try:
        return parsedate_to_datetime(value).astimezone(UTC) if value else datetime.now(UTC)
    except (ValueError, TypeError, OverflowError):
        return datetime.now(UTC)


def _parse_number(text: str | None) -> float | None:
    try:
        number = float(text) if text else math.nan
    except (ValueError, TypeError):
        return None
    return min(max(number, 0.0), MAX_RETRY_AFTER.total_seconds() * 1_000) if math.isfinite(number) else None


def iterate_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and the chain of its causes."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__
