from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petiole.events.conditions import OPERATORS, check_conditions
from petiole.events.errors import UsageError
from petiole.events.subscriptions import Subscription
from tests.support.errors import has_code


def test_conditions_are_kept_as_they_were_written():
    where = {
        "event_type": "message.order",
        "priority": {"ge": 5, "lt": 9},
        "context.user_id": {"prefix": "vip-"},
        "content.parameters.tag": {"one_of": ("a", 1, True)},
        "content.parameters.coupon": {"exists": False},
    }

    assert check_conditions(where) == where | {"content.parameters.tag": {"one_of": ["a", 1, True]}}


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"content.x": {"gte": 1}}, "there is no operator 'gte'; did you mean 'ge'?"),
        ({"content.x": {"$in": [1]}}, "there is no operator '$in'; did you mean 'one_of'?"),
        ({"content.x": {"exist": True}}, "did you mean 'exists'?"),
        ({"content.x": {"regex": "a"}}, "write the value itself for equality, or one of exists, one_of"),
        ({"content.x": {3: 1}}, "there is no operator 3"),
        ({"content.x": {}}, "the condition is empty"),
        ({"": 1}, "the path is empty"),
        ({7: 1}, "the path is empty"),
        ({"content..x": 1}, "empty word"),
        ({"contents.x": 1}, "an event has no field 'contents'; did you mean 'content'?"),
        ({"context.user": 1}, "context has no field 'user'; did you mean 'user_id'?"),
        ({"content.x": None}, "write {'exists': False}"),
        ({"content.x": [1]}, "equals takes text, a number, True or False, not a list"),
        ({"content.x": timedelta(1)}, "not a timedelta"),
        ({"content.x": float("nan")}, "JSON cannot represent"),
        ({"content.x": {"exists": 1}}, "exists takes True or False, not 1"),
        ({"content.x": {"exists": False, "prefix": "a"}}, "remove them"),
        ({"content.x": {"prefix": 5}}, "prefix takes text of at least one character, not 5"),
        ({"content.x": {"prefix": ""}}, "prefix takes text of at least one character"),
        ({"content.x": {"one_of": "ab"}}, "one_of takes a list of at least one value, not 'ab'"),
        ({"content.x": {"one_of": []}}, "one_of takes a list of at least one value"),
        ({"content.x": {"one_of": [[1]]}}, "one_of takes text, a number"),
        ({"content.x": {"ge": True}}, "ge takes a number or text, not True"),
        ({"content.x": {"ge": [1]}}, "ge takes text, a number"),
        ({"content.x": {"ge": 1, "le": "b"}}, "cannot mix a number and text"),
        ({"content.x": {"ge": 1, "gt": 2}}, "gt and ge both limit the same side"),
        ({"content.x": {"ge": 5, "le": 4}}, "no value lies between 5 and 4"),
        ({"content.x": {"ge": 5, "lt": 5}}, "no value lies between 5 and 5"),
        ("content.x", "where is a str"),
    ],
)
def test_what_is_no_condition_is_refused_with_its_path_and_the_remedy(where, said):
    with pytest.raises(UsageError, check=has_code("invalid_filter")) as refusal:
        check_conditions(where)

    assert said in str(refusal.value)
    assert not isinstance(where, dict) or str(refusal.value).startswith(f"where[{str(next(iter(where)))!r}]")


def test_a_range_of_one_value_is_a_range():
    assert check_conditions({"content.x": {"ge": 5, "le": 5}})


scalars = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False))
paths = st.sampled_from(["event_type", "priority", "context.user_id", "content.parameters.amount"])


@given(st.dictionaries(paths, scalars | st.builds(lambda each: {"one_of": [each]}, scalars)))
def test_a_filter_travels_through_the_directory_unchanged(where):
    subscription = Subscription(agent="shop", function="hear", patterns=("message.*",), where=where)

    read = Subscription.model_validate_json(subscription.model_dump_json(exclude_defaults=True))

    assert repr(read.where) == repr(where), "also whole numbers stay whole, and True stays True"


@given(st.recursive(st.none() | scalars | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_whatever_is_given_is_checked_or_refused(anything):
    for where in (anything, {"content.x": anything}, *({"content.x": {name: anything}} for name in OPERATORS)):
        try:
            checked = check_conditions(where)
        except UsageError:
            continue
        assert check_conditions(checked) == checked
