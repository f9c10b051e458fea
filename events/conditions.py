"""Filter conditions of subscriptions: plain data that is validated when the subscription is declared.

    where={
        "content.parameters.country": "DE",                     equality: text, a number, true or false
        "content.parameters.tag": {"one_of": ["a", "b"]},
        "context.user_id": {"prefix": "vip-"},
        "content.parameters.amount": {"ge": 100, "lt": 500},    gt, ge, lt, le: numbers, or text by its characters
        "content.parameters.coupon": {"exists": True},
    }

A path is the dotted path of a field in the event's JSON. The items of a list have no path. An event matches if all
conditions hold; `tasks/routing/filters.py` evaluates them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from petiole.events.content import read_value
from petiole.events.errors import invalid_filter
from petiole.events.event import Event, EventContext

Scalar: TypeAlias = str | int | float | bool
Condition: TypeAlias = Scalar | Mapping[str, Scalar | Sequence[Scalar]]
FilterConditions: TypeAlias = Mapping[str, Condition]

EQUALS = "equals"
"""The implicit operator of a condition that is a plain value."""

RANGES = ("gt", "ge", "lt", "le")
OPERATORS = ("exists", "one_of", "prefix", *RANGES)

_LOWER, _UPPER = ("gt", "ge"), ("lt", "le")
_OTHER_SPELLINGS = {"gte": "ge", "lte": "le", "in": "one_of", "startswith": "prefix", "starts_with": "prefix"}
_FIELDS: Mapping[str, Sequence[str]] = {"": list(Event.model_fields), "context": list(EventContext.model_fields)}


def check_conditions(where: object) -> dict[str, Condition]:
    """Return a filter's conditions with JSON-compatible values.

    Raises:
        UsageError: (invalid_filter) a condition is invalid; the error names its path.
    """
    if not isinstance(where, Mapping):
        raise invalid_filter("", f"where is a {_type_name(where)}; write a map of paths to conditions")
    return {_check_path(path): _check_condition(path, condition) for path, condition in where.items()}


def list_operators(condition: Condition) -> Mapping[str, Scalar | Sequence[Scalar]]:
    """Return a condition's operands by operator."""
    return condition if isinstance(condition, Mapping) else {EQUALS: condition}


def comparison_type(value: object) -> type | None:
    """Return the type for comparisons: str, float (for all numbers) or bool; None for other values."""
    match value:
        case bool():
            return bool
        case int() | float():
            return float
        case str():
            return str
    return None


def _check_path(path: object) -> str:
    if not isinstance(path, str) or not path:
        raise invalid_filter(str(path), "the path is empty; write the dotted path of a field, such as 'content.text'")
    words = path.split(".")
    if not all(words):
        raise invalid_filter(path, "the path has an empty word; write words joined by single dots")
    _check_field(path, words[0], "")
    if words[0] == "context" and len(words) > 1:
        _check_field(path, words[1], "context")
    return path


def _check_field(path: str, name: str, parent: str) -> None:
    if name in _FIELDS[parent]:
        return
    nearest = difflib.get_close_matches(name, _FIELDS[parent], n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"it has {', '.join(_FIELDS[parent])}"
    raise invalid_filter(path, f"{parent or 'an event'} has no field {name!r}; {hint}")


def _check_condition(path: str, condition: object) -> Condition:
    if not isinstance(condition, Mapping):
        return _check_scalar(path, EQUALS, condition)
    if not condition:
        raise invalid_filter(path, f"the condition is empty; {_operator_list()}")
    checked = {_check_operator(path, name): _check_operand(path, name, given) for name, given in condition.items()}
    if checked.get("exists") is False and len(checked) > 1:
        raise invalid_filter(path, "a missing field cannot match other operators; remove them")
    _check_range(path, checked)
    return checked


def _check_operator(path: str, name: object) -> str:
    if isinstance(name, str) and name in OPERATORS:
        return name
    text = str(name).removeprefix("$")
    nearest = _OTHER_SPELLINGS.get(text) or next(iter(difflib.get_close_matches(text, OPERATORS, n=1)), None)
    raise invalid_filter(
        path, f"there is no operator {name!r}; {f'did you mean {nearest!r}?' if nearest else _operator_list()}"
    )


def _check_operand(path: str, operator: str, operand: object) -> Scalar | list[Scalar]:
    match operator:
        case "exists" if not isinstance(operand, bool):
            raise invalid_filter(path, f"exists takes True or False, not {operand!r}")
        case "prefix" if not isinstance(operand, str) or not operand:
            raise invalid_filter(path, f"prefix takes text of at least one character, not {operand!r}")
        case "one_of":
            return _check_choices(path, operand)
        case "gt" | "ge" | "lt" | "le" if isinstance(operand, bool):
            raise invalid_filter(path, f"{operator} takes a number or text, not {operand!r}")
    return _check_scalar(path, operator, operand)


def _check_choices(path: str, operand: object) -> list[Scalar]:
    if isinstance(operand, str) or not isinstance(operand, Sequence) or not operand:
        raise invalid_filter(path, f"one_of takes a list of at least one value, not {operand!r}")
    return [_check_scalar(path, "one_of", choice) for choice in operand]


def _check_scalar(path: str, operator: str, operand: object) -> Scalar:
    if operand is None:
        raise invalid_filter(path, "null matches like a missing field; write {'exists': False}")
    if not isinstance(operand, str | int | float):
        raise invalid_filter(path, f"{operator} takes text, a number, True or False, not a {_type_name(operand)}")
    try:
        read_value(operand)
    except ValueError as error:
        raise invalid_filter(path, f"{operator} {error}") from error
    return operand


def _check_range(path: str, operands: Mapping[str, Scalar | Sequence[Scalar]]) -> None:
    bounds = {
        name: bound for name, bound in operands.items() if name in RANGES and isinstance(bound, str | int | float)
    }
    if len({comparison_type(bound) for bound in bounds.values()}) > 1:
        raise invalid_filter(path, "a range cannot mix a number and text; use the same type for both bounds")
    for pair in (_LOWER, _UPPER):
        if all(operator in bounds for operator in pair):
            raise invalid_filter(path, f"{' and '.join(pair)} both limit the same side; keep one")
    lower = next((bounds[operator] for operator in _LOWER if operator in bounds), None)
    upper = next((bounds[operator] for operator in _UPPER if operator in bounds), None)
    if lower is not None and upper is not None and not _is_satisfiable(lower, upper, bounds):
        raise invalid_filter(path, f"no value lies between {lower!r} and {upper!r}; correct the bounds")


def _is_satisfiable(lower: Scalar, upper: Scalar, bounds: Mapping[str, Scalar]) -> bool:
    if lower == upper:
        return {"ge", "le"} <= bounds.keys()
    return lower < upper  # type: ignore[operator]  # _check_range checked that both have one type


def _operator_list() -> str:
    return f"write the value itself for equality, or one of {', '.join(OPERATORS)}"


def _type_name(value: object) -> str:
    return type(value).__name__
