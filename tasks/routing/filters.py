"""Filters: whether an event meets the conditions of a subscription. Pure: plain data in, a verdict out.

What the conditions may be is told in `events/conditions.py`, which has refused all others before. Text, numbers and
true/false never equal one another: True is not 1. Null is the same as missing, for an event's JSON holds a null
wherever a field was not given; and what is missing meets no condition but {"exists": False}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from petiole.events.conditions import EQUALS, FilterConditions, comparison_type, list_operators

Document: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class UnmetCondition:
    """The condition that an event did not meet, and what stood there; None where nothing did."""

    path: str
    operator: str
    operand: object
    value: object

    def __str__(self) -> str:
        found = "missing" if self.value is None else repr(self.value)
        match self.operator:
            case "exists":
                return f"{self.path} is {found}, and has to {'be there' if self.operand else 'be missing'}"
            case operator:
                return f"{self.path} is {found}, not {'' if operator == EQUALS else f'{operator} '}{self.operand!r}"


def matches(where: FilterConditions, document: Document) -> bool:
    """Tell whether an event, as its JSON object, meets all conditions."""
    return find_unmet_condition(where, document) is None


def find_unmet_condition(where: FilterConditions, document: Document) -> UnmetCondition | None:
    """Find the first condition that an event does not meet; None where it meets all."""
    for path, condition in where.items():
        found = _look_up(document, path)
        for operator, operand in list_operators(condition).items():
            if not _OPERATORS[operator](found, operand):
                return UnmetCondition(path, operator, operand, found)
    return None


def _look_up(document: Document, path: str) -> object:
    place: object = document
    for word in path.split("."):
        if not isinstance(place, Mapping):
            return None
        place = place.get(word)
    return place


def _equals(found: object, operand: object) -> bool:
    return _is_comparable(found, operand) and found == operand


def _is_one_of(found: object, operand: Any) -> bool:
    return any(_equals(found, each) for each in operand)


def _begins_with(found: object, operand: Any) -> bool:
    return isinstance(found, str) and found.startswith(operand)


def _exists(found: object, operand: object) -> bool:
    return (found is not None) is operand


def _ranges(compare: Callable[[Any, Any], bool]) -> Callable[[object, Any], bool]:
    return lambda found, operand: _is_comparable(found, operand) and compare(found, operand)


def _is_comparable(found: object, operand: object) -> bool:
    return comparison_type(found) is not None and comparison_type(found) is comparison_type(operand)


_OPERATORS: Mapping[str, Callable[[object, Any], bool]] = {
    EQUALS: _equals,
    "one_of": _is_one_of,
    "prefix": _begins_with,
    "exists": _exists,
    "gt": _ranges(lambda found, bound: found > bound),
    "ge": _ranges(lambda found, bound: found >= bound),
    "lt": _ranges(lambda found, bound: found < bound),
    "le": _ranges(lambda found, bound: found <= bound),
}
