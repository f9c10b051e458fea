"""Who gets an event, and what becomes of it there: filters, priority, expiry, splits, shadows, withdrawal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from kombu import Queue

from petiole.events import Event, MessageEvent, ParametersContent
from petiole.events.errors import UsageError
from petiole.tasks import Agent, Context, EventBus, publish
from petiole.tasks.operations.unsubscribe import drain, purge
from petiole.tasks.testing import EventTestHarness
from tests.support.apps import a_bus, command_line, publish_once
from tests.support.errors import has_code
from tests.support.inside import Inside


def an_order(number: int = 0, **parameters: str | float | bool) -> MessageEvent:
    content = ParametersContent(parameters={"number": number, **parameters})
    return MessageEvent(event_type="message.order", stream_id=f"customer-{number}", content=content)


def said(event: Event, kind: str) -> MessageEvent:
    return event.caused(MessageEvent, event_type=f"message.{kind}")


def types(harness: EventTestHarness) -> list[str]:
    return [event.event_type for event in harness.published_events()]


def test_of_100_events_of_which_10_meet_the_filter_10_are_sent(harness):
    shop = Agent("shop")

    @shop.on("message.order", where={"content.parameters.country": "DE", "content.parameters.amount": {"ge": 100}})
    def deliver(event: Event) -> MessageEvent:
        return said(event, "sent")

    harness.add(shop)
    publications = [
        harness.publish(an_order(number, country="DE" if number % 5 == 0 else "FR", amount=100 + number % 2 - 0.5))
        for number in range(100)
    ]

    assert sum(len(each.subscriptions) for each in publications) == 10
    harness.send_through(an_order(country="FR", amount=1))
    assert types(harness).count("message.sent") == 10


def test_a_delivery_that_was_not_begun_in_time_is_not_handled(harness):
    shop = Agent("shop")

    @shop.on("message.order", expires=60)
    def answer(event: Event) -> MessageEvent:
        return said(event, "answered")

    @shop.on("message.order", expires=timedelta(hours=2))
    def count(event: Event) -> MessageEvent:
        return said(event, "counted")

    harness.add(shop)
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)

    followed = harness.send_through(an_order().model_copy(update={"timestamp": an_hour_ago}))

    assert [event.event_type for event in followed] == ["message.order", "message.counted"]
    assert harness.dead_letters() == []


def a_split(*, weight: float | None = 20) -> Agent:
    llm = Agent("llm")

    @llm.on("message.order", split="answering", weight=weight)
    def new(event: Event) -> MessageEvent:
        return said(event, "new")

    @llm.on("message.order", split="answering")
    def old(event: Event) -> MessageEvent:
        return said(event, "old")

    return llm


def test_each_event_of_a_split_goes_to_one_variant_and_each_stream_to_the_same(harness):
    harness.add(a_split(weight=50))
    for number in (*range(20), *range(20)):
        harness.send_through(an_order(number))

    variants = Counter((event.stream_id, event.event_type) for event in harness.published_events())

    answers = {key: count for key, count in variants.items() if key[1] != "message.order"}
    assert sorted(answers.values()) == [2] * 20
    assert {kind for _, kind in answers} == {"message.new", "message.old"}


def test_what_a_shadow_says_is_counted_and_not_published(harness):
    llm = a_split()

    @llm.on("message.order", split="answering", shadow=True)
    def dry(event: Event) -> Iterator[Event]:
        yield said(event, "one")
        publish(said(event, "two"))
        publish(said(event, "three"), now=True)
        publish.delay(said(event, "four"))

    harness.add(llm)
    for number in range(3):
        harness.send_through(an_order(number))

    assert set(types(harness)) <= {"message.order", "message.new", "message.old"}
    assert len(types(harness)) == 6
    assert Inside(harness).counts()["shadow_events_suppressed"] == 12


def test_a_shadow_that_fails_is_a_dead_letter_that_disturbs_no_flow(harness):
    llm = Agent("llm")

    @llm.on("message.order", shadow=True)
    def dry(event: Event) -> None:
        raise RuntimeError("not ready yet")

    harness.add(llm)

    followed = harness.send_through(an_order())

    assert [letter.subscription for letter in harness.dead_letters()] == ["llm.dry"]
    assert [event.event_type for event in followed] == ["message.order"]


def test_a_split_that_leaves_streams_without_a_variant_does_not_start(harness):
    llm = Agent("llm")

    @llm.on("message.order", split="answering", weight=20)
    def new(event: Event) -> None: ...

    with pytest.raises(UsageError, check=has_code("invalid_subscription"), match="no variant gets the rest"):
        harness.add(llm)


def test_what_waits_for_a_drained_subscription_is_still_handled(harness):
    shop = Agent("shop")

    @shop.on("message.first")
    def withdraw_the_other(event: Event, context: Context) -> MessageEvent:
        publish(said(event, "second"), now=True)
        drain(context.bus, "shop.hear")
        publish(said(event, "second"), now=True)
        return said(event, "withdrawn")

    @shop.on("message.second")
    def hear(event: Event) -> MessageEvent:
        return said(event, "heard")

    harness.add(shop)

    followed = harness.send_through(MessageEvent(event_type="message.first", stream_id="s"))

    kinds = Counter(event.event_type for event in followed)
    assert (kinds["message.second"], kinds["message.heard"]) == (2, 1)


def test_only_where_messages_can_be_picked_out_is_anything_purged(harness):
    harness.add(a_split())
    harness.publish(an_order())

    with pytest.raises(UsageError, check=has_code("cannot_purge"), match="on memory, only on Redis and Valkey"):
        purge(harness.bus, "llm.new")

    assert len(Inside(harness).subscriptions()) == 2, "nothing was withdrawn"


@pytest.fixture
def bus(clean_broker_url: str) -> Iterator[EventBus]:
    """Give a bus on a real broker that no worker serves."""
    with a_bus(clean_broker_url, a_shop()) as bus:
        yield bus


def waiting(bus: EventBus) -> list[str]:
    """List the tasks that wait in the queue of the agent `shop`, in the order in which workers take them."""
    tasks = []
    with bus.app.connection_for_read() as connection, connection.channel() as channel:
        queue = Queue("shop")(channel)
        while message := queue.get(no_ack=True):
            tasks.append(message.headers["task"])
    return tasks


def a_shop() -> Agent:
    shop = Agent("shop")

    @shop.on("message.order")
    def hear(event: Event) -> None: ...

    @shop.on("message.order", where={"content.parameters.is_urgent": True}, priority=9)
    def hurry(event: Event) -> None: ...

    return shop


def test_the_urgent_delivery_of_an_event_goes_before_20_that_wait(bus):
    for number in range(20):
        publish_once(bus, an_order(number))

    publish_once(bus, an_order(is_urgent=True))

    assert waiting(bus) == ["shop.hurry", *["shop.hear"] * 21]


def test_what_waits_for_a_purged_subscription_is_removed_and_the_rest_stays(bus):
    for number in range(5):
        publish_once(bus, an_order(number, is_urgent=True))
        publish_once(bus, an_order(number).model_copy(update={"priority": number}))

    assert purge(bus, "shop.hear") == 10

    publish_once(bus, an_order(is_urgent=True))
    assert waiting(bus) == ["shop.hurry"] * 6
    with pytest.raises(UsageError, check=has_code("unknown_subscription"), match=r"did you mean 'shop\.hurry'"):
        purge(bus, "shop.hurri")


@pytest.fixture
def type_(bus: EventBus, monkeypatch: pytest.MonkeyPatch):
    """Give the command line of that bus."""
    return partial(command_line(bus, monkeypatch), "subscriptions")


def test_subscriptions_are_listed_with_their_options(type_):
    listed = json.loads(type_("--json").stdout)

    assert listed == [
        {"name": "shop.hear", "queue": "shop", "patterns": ["message.order"]},
        {
            "name": "shop.hurry",
            "queue": "shop",
            "patterns": ["message.order"],
            "where": {"content.parameters.is_urgent": True},
            "priority": 9,
        },
    ]
    assert "where content.parameters.is_urgent  priority 9" in type_().stdout


def test_why_who_would_get_an_event_is_explained_and_nothing_is_published(type_, bus):
    content = '{"parameters": {"is_urgent": false}}'
    arguments = ("--explain", "message.order", "--content", content, "--user", "ada", "--stream", "s")

    shown, as_json = type_(*arguments).stdout, json.loads(type_(*arguments, "--json").stdout)

    assert "content.parameters.is_urgent is False, not True" in shown
    assert [(each["name"], each["delivered"], each["step"]) for each in as_json] == [
        ("shop.hear", True, "delivered"),
        ("shop.hurry", False, "filter"),
    ]
    assert Inside(bus).topics() == []
    assert waiting(bus) == []


def test_an_event_that_is_none_is_not_explained(type_):
    shown = type_("--explain", "input.mesage.received")

    assert (shown.exit_code, "did you mean 'input.message.received'?" in shown.stderr) == (1, True)


def test_a_subscription_is_withdrawn_as_it_is_said(type_, bus):
    publish_once(bus, an_order(is_urgent=True))

    drained, purged = type_("withdraw", "shop.hear", "--drain"), type_("withdraw", "shop.hurry", "--purge", "--json")

    assert drained.stdout == "withdrew shop.hear; waiting deliveries are still handled\n"
    assert json.loads(purged.stdout) == {"name": "shop.hurry", "purged": 1, "rerouted": None}
    assert waiting(bus) == ["shop.hear"]
    assert Inside(bus).subscriptions() == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("shop.hear",), 2, "use one of --drain, --purge and --to"),
        (("shop.hear", "--drain", "--purge"), 2, "use one of --drain, --purge and --to"),
        (("shop.here", "--drain"), 1, "no subscription 'shop.here' exists; did you mean 'shop.hear'?"),
        (("nobody", "--purge"), 1, "no subscription 'nobody' exists; see: petiole subscriptions"),
    ],
)
def test_what_is_withdrawn_wrongly_is_refused_and_changes_nothing(type_, bus, arguments, code, words):
    shown = type_("withdraw", *arguments)

    assert (shown.exit_code, words in shown.stderr) == (code, True)
    assert len(Inside(bus).subscriptions()) == 2
