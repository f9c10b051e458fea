"""What holds for every event and every pattern, tried on random ones.

The random events are built from the pydantic models themselves, so a new event class is covered when it is written.
"""

from __future__ import annotations

import enum
import functools
import json
import types
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from petiole.events import Event, EventRegistry, ToolResult, TopicTrie
from petiole.events.catalog import event_classes
from petiole.events.catalog.llm import FinishReason, GeneratedResponse, ModelToolCall, Usage
from petiole.events.content import EncodedBytes, Parameters, Value
from petiole.events.errors import UsageError
from petiole.events.event import OpenEvent, UtcDatetime
from petiole.events.ids import AgentName, EventId, Traceparent
from petiole.events.texts import is_blank
from petiole.events.topics import Topic, check_pattern, check_topic

CLASSES = sorted(event_classes(), key=lambda model: model.__name__)
EXAMPLES_EACH = 1_000 // len(CLASSES) + 1

REGISTRY = EventRegistry(allows_undeclared=True)

# No store of examples, so that a run leaves nothing behind.
of_every_class = settings(
    max_examples=EXAMPLES_EACH, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
of_a_thousand = settings(max_examples=1_000, deadline=None, database=None)
of_a_few_hundred = settings(max_examples=300, deadline=None, database=None)

WHOLE = st.integers(-(2**63), 2**63 - 1)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
# Years that stay within 1 to 9999 in every time zone.
ZONE = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENT = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=ZONE)  # noqa: DTZ001
HEX = "0123456789abcdef"

VALUE: st.SearchStrategy[Value] = st.recursive(
    st.none() | st.booleans() | WHOLE | NUMBER | st.text(max_size=20) | st.timedeltas(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=10).filter(lambda key: key != "$duration"), inner, max_size=3)
    ),
    max_leaves=6,
)
TOPIC = st.lists(st.text("az09_-", min_size=1, max_size=6).map("x".__add__), min_size=1, max_size=7).map(".".join)
TRACEPARENT = st.tuples(st.text(HEX, min_size=32, max_size=32), st.text(HEX, min_size=16, max_size=16)).map(
    lambda ids: f"00-{ids[0]}-{ids[1]}-01"
)

ALIASES: list[tuple[object, st.SearchStrategy[object]]] = [
    (Parameters, st.dictionaries(st.text(max_size=10), VALUE, max_size=4)),
    (EncodedBytes, st.binary(min_size=1, max_size=40)),
    (UtcDatetime, MOMENT),
    (EventId, st.uuids().map(str)),
    (Traceparent, TRACEPARENT),
    (Topic, TOPIC),
    (AgentName, st.text("az09_-", max_size=9).map("a".__add__)),
]


def values_of(hint: object, constraints: Sequence[object] = ()) -> st.SearchStrategy[object]:
    """Draw what a field with this type hint takes, as a program that is not in the know would."""
    for alias, strategy in ALIASES:
        if hint is alias:
            return strategy
    if get_origin(hint) is Annotated:
        return values_of(get_args(hint)[0], [*FieldInfo.from_annotation(hint).metadata, *constraints])  # type: ignore[arg-type]  # a type hint is what it takes
    if get_origin(hint) is not None:
        return _values_of_several(get_origin(hint), get_args(hint))
    assert isinstance(hint, type), f"no strategy for {hint!r}: teach this test the new kind of field"
    return _values_of_type(hint, constraints)


def _values_of_several(origin: object, parts: tuple[object, ...]) -> st.SearchStrategy[object]:
    if origin is Literal:
        return st.sampled_from(parts)
    if origin in (Union, types.UnionType):
        return st.one_of([values_of(choice) for choice in parts])
    if origin is tuple:
        return st.lists(values_of(parts[0]), max_size=3).map(tuple)
    assert origin is dict, f"no strategy for {origin!r}: teach this test the new kind of field"
    return st.dictionaries(values_of(parts[0]), values_of(parts[1]), max_size=3)


def _values_of_type(kind: type, constraints: Sequence[object]) -> st.SearchStrategy[object]:
    if issubclass(kind, BaseModel):
        return instances_of(kind)
    if issubclass(kind, enum.Enum):
        return st.sampled_from(list(kind))
    if kind in (int, float):
        return _numbers_of(kind, constraints).filter(lambda number: _is_within(number, constraints))
    if kind is str:
        least = int(_bound(constraints, "min_length") or 0)
        return st.text(min_size=least, max_size=40).filter(lambda text: not (least and is_blank(text)))
    plain: dict[type, st.SearchStrategy[object]] = {
        bool: st.booleans(),
        timedelta: st.timedeltas(),
        type(None): st.none(),
    }
    return plain[kind]


def _numbers_of(kind: type, constraints: Sequence[object]) -> st.SearchStrategy[float]:
    low, high = _bound(constraints, "ge", "gt"), _bound(constraints, "le", "lt")
    if kind is float:
        return st.floats(low, high, allow_nan=False, allow_infinity=False)
    return st.integers(-(2**63) if low is None else int(low), 2**63 - 1 if high is None else int(high))


def _bound(constraints: Sequence[object], *names: str) -> float | None:
    found = [getattr(constraint, name) for constraint in constraints for name in names if hasattr(constraint, name)]
    return found[-1] if found and found[-1] is not None else None


def _is_within(number: float, constraints: Sequence[object]) -> bool:
    above, below = _bound(constraints, "gt"), _bound(constraints, "lt")
    return (above is None or number > above) and (below is None or number < below)


def instances_of(model: type[BaseModel]) -> st.SearchStrategy[BaseModel]:
    """Draw instances of a model: every required field, and any of those that have defaults."""
    if model is ToolResult:
        return st.builds(_tool_result, st.text(min_size=1), values_of(Parameters), st.none() | st.text())
    if model is GeneratedResponse:
        calls = st.lists(instances_of(ModelToolCall), max_size=3).map(tuple)
        return st.builds(_response, st.text(min_size=1), instances_of(Usage), calls)
    hints = get_type_hints(model, include_extras=True)
    # The version is the class's own: no writer gives it another.
    drawn = {name: field for name, field in model.model_fields.items() if name != "schema_version"}
    fields = {name: values_of(hints[name], field.metadata) for name, field in drawn.items()}
    if issubclass(model, OpenEvent):
        fields["event_type"] = TOPIC.map(lambda rest: f"{model.family}.{rest}")
    required = {name: fields.pop(name) for name, field in drawn.items() if field.is_required()}
    return st.fixed_dictionaries(required, optional=fields).map(model.model_validate)


def _tool_result(name: str, data: dict[str, Value], error: str | None) -> ToolResult:
    return ToolResult(call_id=name, tool=name, ok=error is None, data=data, error=error)


def _response(text: str, usage: Usage, calls: tuple[ModelToolCall, ...]) -> GeneratedResponse:
    reason: FinishReason = "tool_calls" if calls else "length"
    return GeneratedResponse(text=text, model=text, usage=usage, finish_reason=reason, calls=calls)


@functools.cache
def events_of(model: type[Event]) -> st.SearchStrategy[Event]:
    """Draw events of a class; built once for each, as building costs more than drawing."""
    return instances_of(model).map(model.model_validate)


def test_the_random_events_are_at_least_a_thousand_and_of_every_class_in_the_catalog() -> None:
    registered = {event_type.model for event_type in REGISTRY.all()}

    assert set(CLASSES) == registered
    assert EXAMPLES_EACH * len(CLASSES) >= 1_000


@pytest.mark.parametrize("model", CLASSES)
@of_every_class
@given(data=st.data())
def test_an_event_comes_back_from_json_from_a_worker_and_from_cloudevents_as_it_was(
    model: type[Event], data: st.DataObject
) -> None:
    event = data.draw(events_of(model))

    from_json = REGISTRY.parse_json(event.model_dump_json())
    as_a_worker_sees_it = REGISTRY.parse(through_json(event.model_dump(mode="json")))
    from_cloudevent = REGISTRY.parse_cloudevent(through_json(event.to_cloudevent()))

    assert type(from_json) is type(as_a_worker_sees_it) is type(from_cloudevent) is model
    assert from_json == event
    assert as_a_worker_sees_it == event
    assert from_cloudevent == event
    # Also written again: == takes True, 1 and 1.0 for the same.
    written_again = {read.model_dump_json() for read in (from_json, as_a_worker_sees_it, from_cloudevent)}
    assert written_again == {event.model_dump_json()}


def through_json(document: dict[str, object]) -> dict[str, object]:
    """Pass on what the standard library's JSON, as kombu uses it, makes of a document."""
    read = json.loads(json.dumps(document, allow_nan=False))
    assert isinstance(read, dict)
    return read


# Few words, so that patterns and topics meet often.
WORDS = st.sampled_from(["error", "input", "a", "b"])
RANDOM_TOPIC = st.lists(WORDS, min_size=1, max_size=5)
RANDOM_PATTERN = st.lists(WORDS | st.just("*"), min_size=1, max_size=5)


def reference_match(pattern: list[str], topic: list[str], *, is_first: bool = True) -> bool:
    """Say again, in another way, what the docstring of events/topics.py says."""
    if not pattern or not topic:
        return pattern == topic
    word, *further = pattern
    if is_first and topic[0] == "error" and word != "error":
        return False
    if word == "*" and not further:
        return True
    return word in ("*", topic[0]) and reference_match(further, topic[1:], is_first=False)


@of_a_thousand
@given(pattern=RANDOM_PATTERN, topic=RANDOM_TOPIC)
def test_the_trie_agrees_with_a_reference_matcher(pattern: list[str], topic: list[str]) -> None:
    trie: TopicTrie[str] = TopicTrie()
    trie.add(".".join(pattern), "listener")

    found = trie.match(".".join(topic))

    assert found == (["listener"] if reference_match(pattern, topic) else [])


@of_a_few_hundred
@given(patterns=st.lists(RANDOM_PATTERN, max_size=12), topic=RANDOM_TOPIC)
def test_many_patterns_in_one_trie_match_as_each_does_alone(patterns: list[list[str]], topic: list[str]) -> None:
    trie: TopicTrie[int] = TopicTrie()
    for number, pattern in enumerate(patterns):
        trie.add(".".join(pattern), number)

    found = trie.match(".".join(topic))

    alone = [number for number, pattern in enumerate(patterns) if reference_match(pattern, topic)]
    assert sorted(found) == alone


@of_a_few_hundred
@given(topic=TOPIC)
def test_a_topic_hears_itself_as_a_pattern_and_nothing_of_what_lies_below(topic: str) -> None:
    trie: TopicTrie[str] = TopicTrie()
    trie.add(topic, "listener")

    assert trie.match(topic) == ["listener"]
    assert trie.match(f"{topic}.below") == []


@of_a_thousand
@given(text=st.text(max_size=30) | st.text("ab.*- _A", max_size=12))
def test_any_text_is_a_topic_or_is_refused_as_one_and_likewise_as_a_pattern(text: str) -> None:
    is_topic = _is_accepted_by_topic_grammar(text)
    is_pattern = _is_accepted_by_pattern_grammar(text)

    words = text.split(".")
    assert is_topic == (len(words) <= 8 and all(_is_word(word) for word in words))
    assert is_pattern == (len(words) <= 8 and all(word == "*" or _is_word(word) for word in words))


def _is_word(word: str) -> bool:
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789_-")
    return bool(word) and set(word) <= allowed and word[0] not in "_-"


def _is_accepted_by_topic_grammar(text: str) -> bool:
    try:
        return check_topic(text) == text
    except UsageError:
        return False


def _is_accepted_by_pattern_grammar(text: str) -> bool:
    try:
        return check_pattern(text) == text
    except UsageError:
        return False


@of_a_few_hundred
@given(moment=MOMENT)
def test_a_moment_of_any_zone_is_kept_as_the_same_instant_in_utc(moment: datetime) -> None:
    document = {"event_type": "system.started", "timestamp": moment.isoformat()}

    event = REGISTRY.parse(document)

    assert event.timestamp == moment.astimezone(UTC)
    assert event.timestamp.tzinfo is UTC
