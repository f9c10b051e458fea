from __future__ import annotations

from uuid import UUID, uuid5

from events import TextContent, TextMessageEvent
from events.subscriptions import Subscription
from tasks.routing import RoutingTable


def a_subscription(agent: str, *patterns: str, function: str = "hear") -> Subscription:
    return Subscription(agent=agent, function=function, patterns=patterns)


def a_message(**fields: object) -> TextMessageEvent:
    return TextMessageEvent.model_validate({"stream_id": "s", "content": TextContent(text="hi")} | fields)


def names(table: RoutingTable, event: TextMessageEvent) -> list[str]:
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


def test_a_subscriber_to_everything_does_not_hear_what_it_had_a_hand_in():
    table = RoutingTable([a_subscription("proactive", "*"), a_subscription("audit", "*")])

    assert names(table, a_message(path=("input", "proactive", "output"))) == ["audit.hear"]


def test_a_subscriber_that_names_its_topic_hears_what_it_had_a_hand_in():
    table = RoutingTable([a_subscription("orchestrator", "input.*")])

    assert names(table, a_message(path=("orchestrator",))) == ["orchestrator.hear"]
