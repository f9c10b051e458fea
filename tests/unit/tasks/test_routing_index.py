"""What the routing table's indexes promise: they change how long routing takes, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from petiole.events import MessageEvent, TopicTrie
from petiole.events.conditions import Condition, check_conditions
from petiole.events.event import Event
from petiole.events.subscriptions import Subscription
from petiole.events.topics import list_matching_patterns
from petiole.tasks.routing.filters import matches
from petiole.tasks.routing.table import RoutingTable

of_many = settings(max_examples=200, deadline=None, database=None)

# Few values, so that filters and events meet often.
SCALARS = st.sampled_from([True, False, 0, 1, 1.0, 2.5, "", "a", "ab", "abc", "1"])
CONDITIONS = st.one_of(
    SCALARS,
    st.lists(SCALARS, min_size=1, max_size=3).map(lambda choices: {"one_of": choices}),
    st.sampled_from(["a", "ab", "b"]).map(lambda text: {"prefix": text}),
    st.sampled_from([{"exists": True}, {"exists": False}, {"ge": 1}, {"gt": "a", "lt": "b"}]),
    st.tuples(st.sampled_from(["a", "ab"]), SCALARS).map(lambda pair: {"prefix": pair[0], "one_of": [pair[1]]}),
)
PATHS = st.sampled_from(["stream_id", *(f"content.parameters.{name}" for name in ("x", "y", "x.y"))])
WHERE = st.dictionaries(PATHS, CONDITIONS, max_size=3)
PATTERNS = st.lists(
    st.sampled_from(["*", "message.*", "message.a", "message.*.b", "*.a", "error.*"]), min_size=1, max_size=2
)
VARIANTS = st.sampled_from([("one", None), ("two", 20.0), ("two", 60.0), ("three", None)])
SPLITS: st.SearchStrategy[dict[str, Any]] = st.just({}) | VARIANTS.map(
    lambda of: {"split": "s", "variant": of[0], "weight": of[1]}
)
AGENTS = st.sampled_from(["first", "second", "third"])
FUNCTIONS = st.sampled_from([f"f{number}" for number in range(6)])
SUBSCRIPTIONS = st.builds(
    lambda agent, function, patterns, where, split, shadow: Subscription.model_validate(
        {"agent": agent, "function": function, "patterns": patterns, "where": where, **split}
        | ({"shadow": True} if shadow and split.get("weight") is None else {})
    ),
    AGENTS, FUNCTIONS, PATTERNS, WHERE, SPLITS, st.booleans(),
)  # fmt: skip
PARAMETERS = st.dictionaries(
    st.sampled_from(["x", "y"]), SCALARS | st.dictionaries(st.just("y"), SCALARS) | st.none() | st.lists(SCALARS)
)
EVENTS = st.builds(
    lambda topic, stream, parameters, path: MessageEvent.model_validate(
        {"event_type": topic, "stream_id": stream, "content": {"parameters": parameters}, "path": path}
    ),
    st.sampled_from(["message.a", "message.b", "message.a.b"]),
    st.sampled_from(["a", "ab", "b"]),
    PARAMETERS,
    st.lists(AGENTS, unique=True),
)


def names(table: RoutingTable, event: Event) -> list[str]:
    return [route.name for route in table.routes(event)]


def names_by_definition(table: RoutingTable, event: Event) -> list[str]:
    return [each.subscription.name for each in table.explain(event) if each.is_delivered]


@of_many
@given(subscriptions=st.lists(SUBSCRIPTIONS, max_size=12), event=EVENTS)
def test_the_routes_of_an_event_are_those_of_the_checks_one_by_one(
    subscriptions: list[Subscription], event: Event
) -> None:
    table = RoutingTable(subscriptions)

    assert names(table, event) == names_by_definition(table, event)


@of_many
@given(where=WHERE, event=EVENTS)
def test_one_filter_finds_the_events_that_meet_it(where: dict[str, Any], event: Event) -> None:
    table = RoutingTable([Subscription(agent="first", function="f", patterns=("message.*",), where=where)])

    assert bool(names(table, event)) == matches(check_conditions(where), json.loads(event.model_dump_json()))


@of_many
@given(
    before=st.lists(SUBSCRIPTIONS, max_size=8),
    changes=st.lists(st.lists(SUBSCRIPTIONS | st.tuples(AGENTS, FUNCTIONS), max_size=3), max_size=4),
    events=st.lists(EVENTS, min_size=1, max_size=3),
)
def test_a_table_after_changes_is_as_one_that_is_built_anew_and_the_earlier_ones_stay(
    before: list[Subscription],
    changes: list[list[Subscription | tuple[str, str]]],
    events: list[Event],
) -> None:
    present: dict[str, Subscription | None] = {each.name: each for each in before}
    table = RoutingTable(before)
    versions = [(table, before)]
    for version, batch in enumerate(changes, start=1):
        changed = dict(_change(each) for each in batch)
        present |= changed
        table = table.updated(version, changed)
        versions.append((table, [each for each in present.values() if each is not None]))

    for version, (table, subscriptions) in enumerate(versions):
        anew = RoutingTable(subscriptions, version)
        assert table.version == version
        assert table.all() == anew.all()
        for event in events:
            assert names(table, event) == names(anew, event)
            assert table.explain(event) == anew.explain(event)


def _change(change: Subscription | tuple[str, str]) -> tuple[str, Subscription | None]:
    return (change.name, change) if isinstance(change, Subscription) else (".".join(change), None)


class CountedDocument(Mapping[str, object]):
    """An event's JSON object that counts how often a field is looked up."""

    def __init__(self, document: dict[str, object]) -> None:
        self.lookups = 0
        self._document = document

    def __getitem__(self, name: str) -> object:
        self.lookups += 1
        return self._document[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._document)

    def __len__(self) -> int:
        return len(self._document)


def lookups_to_route(table: RoutingTable) -> int:
    document = CountedDocument({"stream_id": "s7", "priority": 5, "content": {"parameters": {"kind": "all"}}})
    event = MessageEvent(event_type="message.a", stream_id="s7")

    assert [route.name for route in table.routes(event, lambda: document)] == ["agent.f7"]
    return document.lookups


def test_the_work_of_filters_that_an_event_does_not_meet_does_not_grow_with_their_number():
    """They have one condition in common, so the other is the one that finds the few."""

    def table_of(number: int) -> RoutingTable:
        where: list[dict[str, Condition]] = [
            {"content.parameters.kind": "all", "priority": {"ge": 3}, "stream_id": stream}
            for stream in (f"s{each}" for each in range(number))
        ]
        return RoutingTable(
            Subscription(agent="agent", function=f"f{each}", patterns=("message.*",), where=conditions)
            for each, conditions in enumerate(where)
        )

    assert lookups_to_route(table_of(2_000)) == lookups_to_route(table_of(10))


WORDS = st.sampled_from(["error", "input", "a", "b"])
TOPICS = st.lists(WORDS, min_size=1, max_size=8).map(".".join)


@of_many
@given(topic=TOPICS, pattern=st.lists(WORDS | st.just("*"), min_size=1, max_size=8).map(".".join))
def test_the_listed_patterns_of_a_topic_are_those_that_match_it(topic: str, pattern: str) -> None:
    trie: TopicTrie[str] = TopicTrie()
    trie.add(pattern, "listener")

    assert (pattern in list_matching_patterns(topic)) == bool(trie.match(topic))
    assert len(list_matching_patterns(topic)) <= 383


def a_variant(name: str, weight: float | None = None) -> Subscription:
    return Subscription(
        agent="llm", function=name, patterns=("message.*",), split="answering", variant=name, weight=weight
    )


def test_the_streams_of_a_variant_that_is_unregistered_are_divided_as_if_it_had_never_been():
    table = RoutingTable([a_variant("one"), a_variant("two", 60.0), a_variant("three")])
    anew = RoutingTable([a_variant("one"), a_variant("three")], version=1)

    updated = table.updated(1, {"llm.two": None})

    events = [MessageEvent(event_type="message.a", stream_id=f"s{number}") for number in range(100)]
    assert [names(updated, event) for event in events] == [names(anew, event) for event in events]
