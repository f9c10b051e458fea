"""Convert a pydantic ValidationError to one error that names the field, the reason and the next step."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel

from petiole.events.errors import InvalidEvent, UsageError, invalid_option, invalid_response, invalid_subscription
from petiole.events.errors.base import describe

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_REASONS = {
    "missing": "is required; give it",
    "extra_forbidden": "is an unknown field; remove it",
    "timezone_aware": "has no time zone; add one, such as 2026-01-31T12:00:00Z",
    "finite_number": "is not a finite number, which JSON cannot represent; send null or text",
    "too_short": "is empty; give at least one item",
    "string_too_short": "is empty; give at least one character",
}

_OPTION_REMEDIES = {
    "extra_forbidden": "it is unknown, remove it",
    "finite_number": "give a finite number",
    "string_too_short": "it is empty, give at least one character",
    "too_short": "it is empty, give at least one item",
}

# Pydantic reports this for a field whose default depends on an invalid field. It is not an error of its own.
_CONSEQUENTIAL_ERROR = "default_factory_not_called"


def invalid_event(topic: str, report: ValidationError, model: type[BaseModel] | None = None) -> InvalidEvent:
    """Build the error for the first of pydantic's findings, with the number of the others.

    Args:
        topic: The event's topic.
        report: Pydantic's error.
        model: The class that rejected the event. With it, an unknown field gets the nearest known name as a hint.
    """
    findings = [
        finding
        for finding in report.errors(include_url=False, include_context=False)
        if finding["type"] != _CONSEQUENTIAL_ERROR
    ]
    first = findings[0]
    field = ".".join(str(step) for step in first["loc"]) or "event"
    nearest = _nearest_field(model, first["loc"]) if model and first["type"] == "extra_forbidden" else None
    reason = f"is an unknown field; did you mean {nearest!r}?" if nearest else _reason(first)
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
    """Build the error for the first invalid option of a subscription."""
    first = report.errors(include_url=False, include_context=False)[0]
    option = str(first["loc"][0]) if first["loc"] else "split"
    return invalid_subscription(name, option, _reason(first))


def invalid_argument(owner: str, report: ValidationError) -> UsageError:
    """Build the error for the first invalid option of a class or a function, such as `RetryPolicy`."""
    first = report.errors(include_url=False, include_context=False)[0]
    option = ".".join((owner, *map(str, first["loc"])))
    return invalid_option(option, first["input"], _OPTION_REMEDIES.get(first["type"]) or _requirement(first))


def invalid_reply(request_type: str, report: ValidationError) -> UsageError:
    """Build the error for the first part of a reply's value that is not of the requested type."""
    first = report.errors(include_url=False, include_context=False)[0]
    return invalid_response(request_type, ".".join(("response", *map(str, first["loc"]))), _reason(first))


def _reason(finding: ErrorDetails) -> str:
    requirement = _requirement(finding)
    if finding["type"] in _REASONS or finding["type"] == "value_error":
        return requirement
    return f"{requirement}, not {describe(finding['input'])}"


def _requirement(finding: ErrorDetails) -> str:
    if finding["type"] in _REASONS:
        return _REASONS[finding["type"]]
    message = finding["msg"].removeprefix("Value error, ")
    return message if finding["type"] == "value_error" else f"{message[0].lower()}{message[1:]}"


def _code_of(kind: str) -> str:
    if kind == "missing":
        return "missing_field"
    if kind == "extra_forbidden":
        return "unknown_field"
    if kind.endswith(("_type", "_parsing")):
        return "wrong_type"
    return "invalid_value"
