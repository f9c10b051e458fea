"""What a turn of our transport notes of deliveries, on a real server and on the stand-in that the harness uses."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import fakeredis
import pytest
import redis
from kombu import Connection

import petiole.tasks.transport
from petiole.tasks.settlement.deduplication import MAX_CHECK_AGE_S, RecentDeliveries
from petiole.tasks.transport.commands import Ack, QueueSource, TransportCommands, TransportKeys
from petiole.tasks.transport.delivery_log import DeliveryLog
from tests.support.apps import a_bus

KEYS = TransportKeys("unacked", "unacked_index", "held", "holders", "undecodable")
LEDGER = DeliveryLog("p:inbox:", "p:attempts:", "p:aborted:", 60_000, "one@here")
SOURCE = QueueSource("memory", "memory.bell", ["memory"], is_acknowledged=True)
DELIVERY, FLOW = "0192f0c1-7a5e-7cc3-98c8-3f1d2b6a9e10", "the-flow"


@pytest.fixture(params=["fakeredis", "valkey"])
def client(request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    if request.param == "fakeredis":
        with fakeredis.FakeRedis(server=fakeredis.FakeServer()) as client:
            yield client
    else:
        with redis.Redis.from_url(request.getfixturevalue("clean_broker_url")) as client:
            yield client


@pytest.fixture
def steps(client: redis.Redis) -> TransportCommands:
    return TransportCommands(client, KEYS, "holder-1")


def put(client: redis.Redis, tag: str = "tag-1", **headers: Any) -> None:
    """Put a delivery's message into its queue, as it is published."""
    known = {"id": DELIVERY, "task": "memory.keep", "retries": 0, "eta": None, "petiole_flow": FLOW}
    origin = {"exchange": "", "routing_key": "memory"}
    properties = {"delivery_tag": tag, "delivery_info": origin}
    client.lpush("memory", json.dumps({"headers": known | headers, "properties": properties, "body": ""}))


def admitted(steps: TransportCommands, ledger: DeliveryLog | None = LEDGER) -> list[bool]:
    """Take all messages; tells of each whether it was admitted."""
    keys, words = steps._fetch_arguments([SOURCE], 10, [], "fair", ledger)
    taken = TransportCommands.parse_fetch_reply(steps._fetch(keys, words), [SOURCE], sent_at=1.0)
    assert client_of(steps).hlen("unacked") == len({each.tag for each in taken})
    return [each.checked_at > 0 for each in taken]


def client_of(steps: TransportCommands) -> Any:
    return steps.client


def test_a_delivery_that_comes_first_is_admitted_and_noted_as_taken(client, steps):
    put(client)

    assert admitted(steps) == [True]

    (noted,) = map(json.loads, client.lrange("p:attempts:" + DELIVERY, 0, -1))
    assert (noted["worker"], noted["consumer"], noted["is_fetched"]) == ("one@here", "holder-1", True)
    assert 0 < client.pttl("p:attempts:" + DELIVERY) <= 60_000


def test_a_copy_of_what_was_taken_has_to_ask(client, steps):
    put(client, "tag-1")
    put(client, "tag-2")

    assert admitted(steps) == [True, False]
    assert client.llen("p:attempts:" + DELIVERY) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"redelivered": True},
        {"retries": 1},
        {"eta": "2030-01-01T00:00:00Z"},
        {"petiole_message_group": "box"},
        {"petiole_replay": "r-1"},
        {"petiole_dead_letter": "l-1"},
        {"petiole_flow": None},
        {"id": 7},
        {"task": 7},
    ],
    ids=lambda headers: next(iter(headers)),
)
def test_what_may_have_a_past_has_to_ask(client, steps, headers):
    put(client, **headers)

    assert admitted(steps) == [False]
    assert not client.exists("p:attempts:" + DELIVERY)


@pytest.mark.parametrize("key", ["p:inbox:" + DELIVERY, "p:attempts:" + DELIVERY, f"p:aborted:memory:{FLOW}"])
def test_what_something_speaks_against_has_to_ask(client, steps, key):
    client.set(key, "there")
    put(client)

    assert admitted(steps) == [False]


def test_without_a_ledger_nothing_is_noted(client, steps):
    put(client)

    assert admitted(steps, ledger=None) == [False]
    assert not client.exists("p:attempts:" + DELIVERY)


def test_an_ack_that_names_its_delivery_marks_it_as_handled(client, steps):
    put(client)
    admitted(steps)

    steps.fetch([], 0, [Ack("tag-1", DELIVERY)], delivery_log=LEDGER)

    assert client.get("p:inbox:" + DELIVERY) == b"done"
    assert not client.exists("p:attempts:" + DELIVERY)
    assert client.hlen("unacked") == client.hlen("held") == 0


def test_an_ack_of_what_another_holds_marks_nothing(client, steps):
    put(client)
    admitted(steps)
    client.hset("held", "tag-1", "holder-2")

    steps.fetch([], 0, [Ack("tag-1", DELIVERY)], delivery_log=LEDGER)

    assert not client.exists("p:inbox:" + DELIVERY)
    assert client.exists("p:attempts:" + DELIVERY)
    assert client.hlen("unacked") == 1


def test_many_acks_of_both_kinds_go_in_one_step(client, steps):
    for number in range(1200):
        put(client, f"tag-{number}", id=f"delivery-{number}")
    for _ in range(120):
        steps.fetch([SOURCE], 10, [], delivery_log=LEDGER)

    acks = [Ack(f"tag-{number}", f"delivery-{number}" if number % 2 else "") for number in range(1200)]
    steps.fetch([], 0, acks, delivery_log=LEDGER)

    assert client.hlen("unacked") == 0
    assert len(client.keys("p:inbox:*")) == 600


def test_what_a_lost_connection_had_still_to_mark_is_marked_by_the_next(clean_broker_url):
    server = redis.Redis.from_url(clean_broker_url)
    put(server)
    with Connection(petiole.tasks.transport.with_transport_prefix(clean_broker_url)) as connection:
        lost: Any = connection.channel()
        following: Any = connection.channel()
        for channel in (lost, following):
            channel.delivery_log = LEDGER
        lost.basic_get("memory")
        lost.mark_handled("tag-1", DELIVERY)
        lost.client.connection_pool.disconnect()
        lost._acks.append(Ack("tag-1", DELIVERY))

        following.take_over_acks(lost)
        following.send_acks()

    assert server.get("p:inbox:" + DELIVERY) == b"done"


def test_an_admission_holds_for_a_moment_and_not_beyond_an_abort_in_this_process():
    known, now = RecentDeliveries(a_bus()), time.monotonic()
    assert known.is_check_valid(now)
    assert not known.is_check_valid(now - MAX_CHECK_AGE_S)
    assert not known.is_check_valid(0.0)

    known.invalidate_checks()

    assert not known.is_check_valid(now)
    assert known.is_check_valid(time.monotonic())
