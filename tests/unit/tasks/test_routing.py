from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

import pytest

from petiole.events import EventContext, TextContent, TextMessageEvent
from petiole.events.catalog.memory import LearnedPattern, PatternLearnedEvent
from petiole.events.event import Event
from petiole.events.subscriptions import Subscription
from petiole.tasks.routing.table import RoutingTable


def a_subscription(agent: str, *patterns: str, function: str = "hear", **options: object) -> Subscription:
    return Subscription.model_validate({"agent": agent, "function": function, "patterns": patterns} | options)


def a_variant(name: str, weight: float | None = None, *patterns: str, **options: object) -> Subscription:
    """Build a handler of the agent `llm`, named as the variant of the split `answering` that it is."""
    options |= {"split": "answering", "variant": name, "weight": weight}
    return a_subscription("llm", *(patterns or ("input.*",)), function=name, **options)


def a_message(**fields: object) -> TextMessageEvent:
    return TextMessageEvent.model_validate({"stream_id": "s", "content": TextContent(text="hi")} | fields)


def names(table: RoutingTable, event: Event) -> list[str]:
    return [route.subscription.name for route in table.routes(event)]


def test_every_agent_that_matches_is_routed_to():
    table = RoutingTable([a_subscription("memory", "input.*"), a_subscription("orchestrator", "input.*")])

    assert names(table, a_message()) == ["memory.hear", "orchestrator.hear"]


def test_two_handlers_of_one_agent_are_two_deliveries():
    table = RoutingTable(
        [a_subscription("memory", "input.*"), a_subscription("memory", "input.message.*", function="learn")]
    )

    assert names(table, a_message()) == ["memory.hear", "memory.learn"]


def test_a_subscription_with_two_matching_patterns_is_one_delivery():
    table = RoutingTable([a_subscription("proactive", "*", "input.message.received")])

    assert names(table, a_message()) == ["proactive.hear"]


def test_who_does_not_match_is_not_routed_to():
    table = RoutingTable([a_subscription("tools", "orchestrator.tools.requested")])

    assert names(table, a_message()) == []


def test_a_delivery_is_named_by_event_and_subscription():
    event = a_message()

    (route,) = RoutingTable([a_subscription("memory", "input.*")]).routes(event)

    assert route.delivery_id == str(uuid5(UUID(event.event_id), "memory.hear"))


def a_pattern(**fields: object) -> PatternLearnedEvent:
    content = LearnedPattern(pattern="asks for the time", occurrences=3)
    return PatternLearnedEvent.model_validate({"stream_id": "s", "content": content} | fields)


def test_a_subscriber_to_everything_does_not_hear_what_it_had_a_hand_in():
    table = RoutingTable([a_subscription("proactive", "*"), a_subscription("audit", "*")])

    assert names(table, a_message(path=("input", "proactive", "output"))) == ["audit.hear"]


def test_who_names_a_topic_beside_everything_hears_of_what_it_had_a_hand_in_only_that():
    table = RoutingTable([a_subscription("proactive", "*", "memory.pattern.detected")])
    own, named = a_message(path=("proactive", "output")), a_pattern(path=("proactive", "memory"))

    assert (names(table, own), names(table, named)) == ([], ["proactive.hear"])
    assert names(table, a_message()) == ["proactive.hear"]


def test_a_subscriber_that_names_its_topic_hears_what_it_had_a_hand_in():
    table = RoutingTable([a_subscription("orchestrator", "input.*")])

    assert names(table, a_message(path=("orchestrator",))) == ["orchestrator.hear"]


def test_who_filters_gets_only_what_meets_the_conditions():
    table = RoutingTable([a_subscription("vip", "input.*", where={"context.user_id": {"prefix": "vip-"}})])

    assert names(table, a_message(context=EventContext(user_id="vip-ada"))) == ["vip.hear"]
    assert names(table, a_message(context=EventContext(user_id="ada"))) == []
    assert names(table, a_message()) == []


def test_a_filter_looks_into_the_document_that_is_at_hand():
    table = RoutingTable([a_subscription("vip", "input.*", where={"content.text": "from the document"})])

    (route,) = table.routes(a_message(), lambda: {"content": {"text": "from the document"}})

    assert route.subscription.name == "vip.hear"


@pytest.mark.parametrize(("own", "expected"), [(None, 3), (9, 9), (0, 0)])
def test_a_subscriptions_priority_goes_before_the_events(own, expected):
    (route,) = RoutingTable([a_subscription("memory", "input.*", priority=own)]).routes(a_message(priority=3))

    assert route.priority == expected


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expires", "expires_at", "expected"),
    [
        (None, None, None),
        (60, None, NOON + timedelta(minutes=1)),
        (timedelta(minutes=1), NOON + timedelta(hours=1), NOON + timedelta(minutes=1)),
        (60, NOON + timedelta(seconds=1), NOON + timedelta(seconds=1)),
        (None, NOON + timedelta(hours=1), NOON + timedelta(hours=1)),
        (timedelta.max, None, None),
    ],
)
def test_a_delivery_expires_with_its_event_or_its_subscription_whichever_is_first(expires, expires_at, expected):
    table = RoutingTable([a_subscription("memory", "input.*", expires=expires)])

    (route,) = table.routes(a_message(timestamp=NOON, expires_at=expires_at))

    assert route.expires_at == expected


def test_of_a_split_every_event_goes_to_one_variant_and_a_stream_to_the_same():
    table = RoutingTable([a_variant("new", 20), a_variant("old")])
    counts: Counter[str] = Counter()

    for number in range(500):
        first, second = (names(table, a_message(stream_id=f"s{number}", content={"text": text})) for text in "ab")
        assert first == second
        counts.update(first)

    assert sum(counts.values()) == 500
    assert 60 <= counts["llm.new"] <= 140


def test_an_event_that_one_variant_does_not_take_goes_to_another():
    only_german = {"content.language": "de"}
    table = RoutingTable([a_variant("new", 100, where=only_german), a_variant("old")])

    assert names(table, a_message(content={"text": "Hallo", "language": "de"})) == ["llm.new"]
    assert names(table, a_message(content={"text": "Hello", "language": "en"})) == ["llm.old"]


def test_all_handlers_of_the_streams_variant_get_the_event():
    both = {"split": "answering", "variant": "new"}
    table = RoutingTable(
        [a_subscription("llm", "input.*", function=name, **both) for name in ("answer", "learn")]
        + [a_variant("old", 0)]
    )

    assert names(table, a_message()) == ["llm.answer", "llm.learn"]


def test_splits_of_one_name_in_two_agents_are_two_that_divide_alike():
    there = [
        a_subscription("memory", "input.*", function=each, split="answering", variant=each) for each in ("new", "old")
    ]
    table = RoutingTable([a_variant("new", 50), a_variant("old", 50), *there])

    for number in range(20):
        one, other = names(table, a_message(stream_id=f"s{number}"))
        assert one.removeprefix("llm") == other.removeprefix("memory")


def test_a_shadow_gets_every_event_beside_the_variant():
    table = RoutingTable([a_variant("new", 100), a_variant("old"), a_variant("dry", shadow=True)])

    assert names(table, a_message()) == ["llm.dry", "llm.new"]


@pytest.mark.parametrize(
    ("subscription", "step", "reason"),
    [
        (a_subscription("memory", "tools.*"), "pattern", "none of its patterns matches input.message.received"),
        (a_subscription("memory", "*"), "echo", "'memory' took part in this event: input > memory"),
        (
            a_subscription("memory", "input.*", where={"content.text": "hi", "priority": {"ge": 8}}),
            "filter",
            "priority is 5, not ge 8",
        ),
        (a_variant("zero", 0), "split", "stream 's' is in bucket 9,983 of split 'answering': variant 'rest'"),
        (a_subscription("memory", "input.*"), "delivered", "input.* matches"),
        (
            a_subscription("memory", "input.*", "tools.*", where={"content.text": "hi"}),
            "delivered",
            "one of input.* tools.* matches, and so does its filter",
        ),
        (a_subscription("memory", "input.*", shadow=True), "delivered", "a shadow: its events are not published"),
    ],
)
def test_why_a_subscription_gets_an_event_or_does_not_is_told(subscription, step, reason):
    table = RoutingTable([subscription, a_variant("rest")])

    explained = {each.subscription.name: each for each in table.explain(a_message(path=("input", "memory")))}

    told = explained[subscription.name]
    assert told.step == step
    assert reason in told.reason


def test_what_is_explained_is_what_is_routed():
    where = {"content.text": {"one_of": ["hi", "ho"]}}
    table = RoutingTable(
        [
            a_variant("a", 30, where=where),
            a_variant("b", 30),
            a_variant("c", None, "input.message.*", "tools.*"),
            a_variant("dry", None, shadow=True),
            a_subscription("audit", "*"),
            a_subscription("tools", "tools.*"),
        ]
    )
    for number in range(100):
        event = a_message(
            stream_id=f"s{number}", content={"text": ["hi", "hello"][number % 2]}, path=("audit",)[: number % 3]
        )

        explained = table.explain(event)

        assert [each.subscription.name for each in explained if each.is_delivered] == names(table, event)
        assert len(explained) == 6
        assert all(each.reason for each in explained)
