"""From pydantic's report to one error of ours that names the field, the reason and what to do."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel

from petiole.events.errors import InvalidEvent, UsageError, invalid_subscription

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_REASONS = {
    "missing": "is required; give it",
    "extra_forbidden": "is not known here; leave it out",
    "timezone_aware": "has no time zone; give it one, such as 2026-01-31T12:00:00Z",
    "finite_number": "is not a finite number; JSON cannot carry it",
    "too_short": "is empty; give it at least one item",
    "string_too_short": "is empty; give it at least one character",
}

# A field whose default depends on others, where one of those is invalid: no finding of its own.
_FOLLOWS_FROM_OTHERS = "default_factory_not_called"

# Stops early, where repr() would run through ten megabytes or overflow the stack.
_abridged = reprlib.Repr()
_abridged.maxstring = _abridged.maxother = _abridged.maxlong = 60


def invalid_event(topic: str, report: ValidationError, model: type[BaseModel] | None = None) -> InvalidEvent:
    """Word the first of pydantic's findings, and say how many more there are.

    With the `model` that refused them, an unknown field is told with the nearest known one.
    """
    findings = [
        finding
        for finding in report.errors(include_url=False, include_context=False)
        if finding["type"] != _FOLLOWS_FROM_OTHERS
    ]
    first = findings[0]
    field = ".".join(str(step) for step in first["loc"]) or "event"
    nearest = _nearest_field(model, first["loc"]) if model and first["type"] == "extra_forbidden" else None
    reason = f"is not known here; did you mean {nearest!r}?" if nearest else _reason(first)
    if len(findings) > 1:
        reason += f" (and {len(findings) - 1} more)"
    return InvalidEvent(topic, field, reason, code=_code_of(first["type"]))


def _nearest_field(model: type[BaseModel], location: Sequence[int | str]) -> str | None:
    *parents, name = map(str, location)
    for parent in parents:
        field = model.model_fields.get(parent)
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return None
        model = field.annotation
    return next(iter(difflib.get_close_matches(name, model.model_fields, n=1)), None)


def invalid_options(name: str, report: ValidationError) -> UsageError:
    """Word the first of pydantic's findings about a subscription's options."""
    first = report.errors(include_url=False, include_context=False)[0]
    option = str(first["loc"][0]) if first["loc"] else "split"
    return invalid_subscription(name, option, _reason(first))


def _reason(finding: ErrorDetails) -> str:
    if finding["type"] in _REASONS:
        return _REASONS[finding["type"]]
    message = finding["msg"].removeprefix("Value error, ")
    if finding["type"] == "value_error":
        return message
    return f"{message[0].lower()}{message[1:]}, not {_short(finding['input'])}"


def _short(value: object) -> str:
    text = _abridged.repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - what fits into one line of a log


def _code_of(kind: str) -> str:
    if kind == "missing":
        return "missing_field"
    if kind == "extra_forbidden":
        return "unknown_field"
    if kind.endswith(("_type", "_parsing")):
        return "wrong_type"
    return "invalid_value"
