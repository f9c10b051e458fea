from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from petiole.events.conditions import check_conditions
from petiole.events.errors import UsageError
from petiole.tasks.routing.filters import find_unmet_condition, matches

ORDER: dict[str, object] = {
    "event_type": "message.order.placed",
    "priority": 5,
    "context": {"user_id": "vip-ada", "session_id": None},
    "content": {"parameters": {"country": "DE", "amount": 250, "is_gift": True, "tags": ["a"], "discount": 0.5}},
}


def of(path: str) -> str:
    return f"content.parameters.{path}"


@pytest.mark.parametrize(
    ("path", "condition", "expected"),
    [
        (of("country"), "DE", True),
        (of("country"), "de", False),
        ("event_type", "message.order.placed", True),
        ("priority", 5, True),
        (of("amount"), 250.0, True),
        (of("amount"), "250", False),
        (of("is_gift"), True, True),
        (of("is_gift"), 1, False),
        (of("is_gift"), {"one_of": [1, "True"]}, False),
        (of("country"), {"one_of": ["FR", "DE"]}, True),
        (of("country"), {"one_of": ["FR"]}, False),
        ("context.user_id", {"prefix": "vip-"}, True),
        ("context.user_id", {"prefix": "ada"}, False),
        (of("amount"), {"prefix": "2"}, False),
        (of("amount"), {"ge": 250}, True),
        (of("amount"), {"gt": 250}, False),
        (of("amount"), {"gt": 249.9, "lt": 250.1}, True),
        (of("amount"), {"le": 250}, True),
        (of("amount"), {"lt": 250}, False),
        (of("amount"), {"ge": "2"}, False),
        (of("is_gift"), {"ge": 0}, False),
        (of("country"), {"ge": "DA", "lt": "DF"}, True),
        (of("discount"), {"le": 1}, True),
        (of("country"), {"exists": True}, True),
        (of("country"), {"exists": False}, False),
        (of("tags"), {"exists": True}, True),
        (of("tags"), "a", False),
        (of("tags.0"), "a", False),
        (of("country.code"), {"exists": False}, True),
        (of("coupon"), {"exists": False}, True),
        (of("coupon"), {"exists": True}, False),
        (of("coupon"), {"lt": 5}, False),
        ("context.session_id", {"exists": True}, False),
        ("context.session_id", {"exists": False}, True),
    ],
)
def test_a_condition_holds_or_does_not(path, condition, expected):
    assert matches(check_conditions({path: condition}), ORDER) is expected


def test_all_conditions_have_to_hold():
    assert matches({of("country"): "DE", of("amount"): {"ge": 100}}, ORDER)
    assert not matches({of("country"): "DE", of("amount"): {"ge": 1_000}}, ORDER)
    assert matches({}, ORDER)


@pytest.mark.parametrize(
    ("path", "condition", "words"),
    [
        (of("country"), "FR", "content.parameters.country is 'DE', not 'FR'"),
        (of("amount"), {"ge": 100, "lt": 200}, "content.parameters.amount is 250, not lt 200"),
        (of("coupon"), {"prefix": "x"}, "content.parameters.coupon is missing, not prefix 'x'"),
        (of("coupon"), {"exists": True}, "content.parameters.coupon is missing, but must exist"),
        (of("amount"), {"exists": False}, "content.parameters.amount is 250, but must be missing"),
    ],
)
def test_the_condition_that_is_not_met_is_told_with_what_stood_there(path, condition, words):
    assert str(find_unmet_condition({path: condition}, ORDER)) == words


words = st.sampled_from(["a", "b", "parameters"])
scalars = st.one_of(
    st.booleans(), st.integers(-3, 3), st.sampled_from([0.0, 1.0, -0.5, 2.5]), st.text("ab", max_size=3)
)
values = st.recursive(
    st.none() | scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=3)
)
documents = st.fixed_dictionaries(
    {"content": st.dictionaries(words, values, max_size=3), "priority": st.integers(0, 9)}
)
operators = st.dictionaries(st.sampled_from(["gt", "ge", "lt", "le", "prefix"]), scalars, max_size=3)
conditions = st.one_of(
    scalars,
    st.builds(lambda each: {"exists": each}, st.booleans()),
    st.builds(lambda each: {"one_of": each}, st.lists(scalars, min_size=1, max_size=3)),
    operators,
)
paths = st.lists(words, min_size=1, max_size=3).map(lambda each: ".".join(["content", *each])) | st.just("priority")


@given(st.dictionaries(paths, conditions, min_size=1, max_size=3), documents)
@example({"content.a": 1}, {"content": {"a": True}, "priority": 1})
@example({"content.a": {"ge": 0}}, {"content": {"a": True}, "priority": 1})
@example({"content.a": {"exists": True}}, {"content": {"a": None}, "priority": 1})
def test_a_filter_decides_as_a_naive_reader_of_its_rules_would(where, document):
    try:
        checked = check_conditions(where)
    except UsageError:
        return

    assert matches(checked, document) is all(holds(document, path, asked) for path, asked in checked.items())


def holds(document: dict[str, Any], path: str, asked: Any) -> bool:
    """Read the rules again, in another way: the document as a flat list of leaves, and each rule as a sentence."""
    leaves = dict(flattened(document))
    operations = asked if isinstance(asked, dict) else {"one_of": [asked]}
    return all(rule(name, operand, path in leaves, leaves.get(path)) for name, operand in operations.items())


def rule(name: str, operand: Any, is_there: bool, value: Any) -> bool:
    if name == "exists":
        return is_there is operand
    if name == "one_of":
        return any(tag(each) == tag(value) and each == value for each in operand)
    if not is_there or tag(value) != tag(operand) or tag(value) not in {"number", "text"}:
        return False
    if name == "prefix":
        return bool(str(value)[: len(operand)] == operand)
    return bool(
        {"gt": value > operand, "ge": not value < operand, "lt": value < operand, "le": not value > operand}[name]
    )


def flattened(value: Any, path: str = "") -> Any:
    if value is not None and path:
        yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flattened(inner, f"{path}.{key}" if path else key)


def tag(value: object) -> str:
    names = {"bool": "flag", "int": "number", "float": "number", "str": "text"}
    return names.get(type(value).__name__, "other")
