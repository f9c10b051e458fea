"""Parked deliveries: in one place at every moment, in order, and taken by whoever has what they need."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import uuid4

import time_machine

from petiole.events.subscriptions import Subscription
from petiole.tasks.settlement.parking import park_unknown_task
from petiole.tasks.stores.delayed_messages import DelayedMessage
from petiole.tasks.stores.deliveries import QueueEntry
from petiole.tasks.stores.parked import Need
from petiole.tasks.stores.publications import Lease
from petiole.tasks.transport.commands import Fetched, QueueSource
from tests.support.apps import a_bus
from tests.support.engine import KEEP, QUEUE, Consumer, Engine, a_source, an_event, event_id_of

NEED = Need(QUEUE, "handler", KEEP.name)
GROUP = f"{KEEP.name}:s"
RENAMED = Subscription(agent="memory", function="store", patterns=("input.*",), ordered_by="stream_id")


def park(engine: Engine, taken: Fetched, need: Need = NEED) -> str:
    return engine.stores.parked.park(need, "no handler", Lease(taken.tag, "one", is_entry=True))


def fetch_parked(engine: Engine, consumer: Consumer, count: int = 10) -> list[Fetched]:
    """Fetch as a worker does that has what is needed: what is parked and what is queued."""
    lists = engine.stores.parked.lists(NEED)
    parked = QueueSource(QUEUE, lists, [f"{lists}:messages"] * 4, is_leased=True, returns_to=engine.keys.queue(QUEUE))
    first, consumer.next_tag = consumer.next_tag, consumer.next_tag + count
    return consumer.commands.fetch([parked, a_source(engine.keys)], count, first, [])


def test_a_parked_delivery_waits_outside_its_queue_and_is_counted_with_its_reason(engine: Engine) -> None:
    engine.publish()
    one = engine.consumer()

    assert park(engine, one.fetch_one()) == "parked"

    assert (engine.places(), one.fetch()) == (["parked"], [])
    (parked,) = engine.stores.parked.read()
    assert (parked.need, parked.count, parked.reason) == (NEED, 1, "no handler")
    assert engine.stores.counters.all()["parked"] == 1
    assert engine.inside.leaks() == []


def test_a_worker_that_has_what_is_needed_takes_it_and_gives_it_back_to_the_queue(engine: Engine) -> None:
    event = engine.publish()
    one, another = engine.consumer(), engine.consumer("another")
    park(engine, one.fetch_one())

    (taken,) = fetch_parked(engine, another)

    assert (event_id_of(taken), engine.stores.parked.read(), engine.inside.leaks()) == (event.event_id, [], [])
    another.give_back("unread", taken.tag)
    assert engine.places() == ["queue"]
    assert another.settle(another.fetch_one()).status == "published"
    assert engine.references == 0


def test_parking_does_not_let_a_message_group_advance(engine: Engine) -> None:
    events = [engine.publish(an_event(str(number)), GROUP) for number in range(3)]
    one, another = engine.consumer(), engine.consumer("another")

    park(engine, one.fetch_one())

    assert one.fetch(10) == []
    handled = []
    while fetched := fetch_parked(engine, another):
        handled += [event_id_of(each) for each in fetched]
        another.settle(fetched[0])
    assert handled == [event.event_id for event in events]


def test_a_delivery_whose_lease_was_lost_is_not_parked(engine: Engine) -> None:
    engine.publish()
    taken = engine.consumer().fetch_one()
    engine.expire("one")

    assert park(engine, taken) == "lease_lost"
    assert engine.places() == ["queue"]


def test_as_many_are_parked_as_the_limit_allows(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(max_parked=1)
    one = engine.consumer()
    for _ in range(2):
        engine.publish()

    assert [park(engine, taken) for taken in one.fetch(2)] == ["parked", "full"]
    assert engine.places() == ["lease", "parked"]


def test_released_deliveries_return_to_their_queue_the_oldest_first(engine: Engine) -> None:
    events = [engine.publish(an_event(str(number))) for number in range(3)]
    one = engine.consumer()
    for taken in one.fetch(3):
        park(engine, taken)

    assert [engine.stores.parked.release(NEED, 2), engine.stores.parked.release(NEED)] == [2, 1]

    assert [event_id_of(taken) for taken in one.fetch(3)] == [event.event_id for event in events]


def test_the_deliveries_of_a_renamed_handler_go_to_the_new_one_in_their_order(engine: Engine) -> None:
    events = [engine.publish(an_event(str(number)), GROUP) for number in range(3)]
    other = engine.publish(an_event("of another"), subscriptions=["memory.another"])
    one = engine.consumer()
    for taken in one.fetch(2):
        if QueueEntry.parse(taken.text).subscription == KEEP.name:
            park(engine, taken)
        else:
            one.give_back("unread", taken.tag)
    groups, parked = engine.stores.message_groups, engine.stores.parked

    moved = groups.reroute(KEEP.name, [*groups.queue_lists(QUEUE), *parked.queue_lists(QUEUE)], RENAMED)

    assert (moved, parked.read(), engine.inside.leaks()) == (3, [], [])
    handled: dict[str, list[str]] = {}
    while fetched := one.fetch(10):
        for each in fetched:
            handled.setdefault(QueueEntry.parse(each.text).subscription, []).append(event_id_of(each))
            assert one.settle(each).status == "published"
    assert handled == {RENAMED.name: [event.event_id for event in events], "memory.another": [other.event_id]}
    assert engine.references == 0


def test_thousands_of_deliveries_are_moved_in_their_order(server_engine: Engine) -> None:
    events = [server_engine.publish(an_event(str(number))) for number in range(1_100)]
    groups = server_engine.stores.message_groups

    assert groups.reroute(KEEP.name, groups.queue_lists(QUEUE), RENAMED) == 1_100

    taken = server_engine.consumer().fetch(1_100)
    assert [event_id_of(each) for each in taken] == [event.event_id for event in events]
    assert {QueueEntry.parse(each.text).subscription for each in taken} == {RENAMED.name}


def test_a_message_of_another_broker_is_sent_again_when_it_is_due(engine: Engine) -> None:
    now = datetime.now(UTC)
    for name, due in (("now", now), ("later", now + timedelta(hours=1))):
        message = DelayedMessage(name, due, QUEUE, "", "the message")
        assert engine.stores.parked.park_message(NEED, "no handler", message) == "parked"

    assert engine.stores.parked.release(NEED) == 2

    (claimed,) = engine.stores.delayed_messages.claim_due()
    assert (claimed.id, claimed.queue, claimed.message) == ("now", QUEUE, "the message")
    assert engine.stores.delayed_messages.count() == 2


def test_a_message_that_a_worker_with_a_wrong_clock_parks_is_sent_as_soon_as_it_is_released(
    server_engine: Engine,
) -> None:
    bus = a_bus("memory://", state=server_engine.stores.client)
    headers = {"task": KEEP.name, "id": str(uuid4())}
    body = json.dumps([[json.loads(an_event().model_dump_json())], {}, {}])
    message = SimpleNamespace(headers=headers, body=body, delivery_info={"routing_key": QUEUE}, delivery_tag="1")

    with time_machine.travel(datetime.now(UTC) + timedelta(hours=1)):
        assert park_unknown_task(bus, message)

    (parked,) = bus.stores.parked.read()
    assert parked.since < datetime.now(UTC) + timedelta(minutes=5)
    bus.stores.parked.release(NEED)
    assert len(bus.stores.delayed_messages.claim_due()) == 1
