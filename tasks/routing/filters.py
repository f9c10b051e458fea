"""Filters: check whether an event meets the conditions of a subscription. Pure functions.

`events/conditions.py` defines the conditions and has validated them. Values of different types are never equal: True is
not 1. Null counts as missing, because an event's JSON has null for a field that was not given. A missing value meets
only the condition {"exists": False}.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from petiole.events.conditions import EQUALS, FilterConditions, comparison_type, list_operators

Document: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class UnmetCondition:
    """A condition that an event did not meet, and the value found; None if it is missing."""

    path: str
    operator: str
    operand: object
    value: object

    def __str__(self) -> str:
        value = "missing" if self.value is None else repr(self.value)
        match self.operator:
            case "exists":
                return f"{self.path} is {value}, but must {'exist' if self.operand else 'be missing'}"
            case name:
                return f"{self.path} is {value}, not {'' if name == EQUALS else f'{name} '}{self.operand!r}"


def matches(where: FilterConditions, document: Document) -> bool:
    """Return whether an event, given as its JSON object, meets all conditions."""
    return find_unmet_condition(where, document) is None


def find_unmet_condition(where: FilterConditions, document: Document) -> UnmetCondition | None:
    """Find the first condition that an event does not meet; None if it meets all."""
    for path, condition in where.items():
        value = look_up(document, path)
        for name, operand in list_operators(condition).items():
            if not _OPERATORS[name](value, operand):
                return UnmetCondition(path, name, operand, value)
    return None


def look_up(document: Document, path: str) -> object:
    """Return the value of a path in an event's JSON object; None if it is missing."""
    value: object = document
    for key in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def _equals(value: object, operand: object) -> bool:
    return _is_comparable(value, operand) and value == operand


def _is_one_of(value: object, operand: Any) -> bool:
    return any(_equals(value, option) for option in operand)


def _begins_with(value: object, operand: Any) -> bool:
    return isinstance(value, str) and value.startswith(operand)


def _exists(value: object, operand: object) -> bool:
    return (value is not None) is operand


def _compares(comparison: Callable[[Any, Any], bool]) -> Callable[[object, Any], bool]:
    return lambda value, operand: _is_comparable(value, operand) and comparison(value, operand)


def _is_comparable(value: object, operand: object) -> bool:
    return comparison_type(value) is not None and comparison_type(value) is comparison_type(operand)


_OPERATORS: Mapping[str, Callable[[object, Any], bool]] = {
    EQUALS: _equals,
    "one_of": _is_one_of,
    "prefix": _begins_with,
    "exists": _exists,
    "gt": _compares(operator.gt),
    "ge": _compares(operator.ge),
    "lt": _compares(operator.lt),
    "le": _compares(operator.le),
}
