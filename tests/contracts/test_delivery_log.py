"""How the transport checks and records deliveries when it fetches them, on a real server and on fakeredis."""

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
DELIVERY_LOG = DeliveryLog("p:inbox:", "p:attempts:", "p:aborted:", 60_000, "one@here")
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
def commands(client: redis.Redis) -> TransportCommands:
    return TransportCommands(client, KEYS, "holder-1")


def put(client: redis.Redis, tag: str = "tag-1", **headers: Any) -> None:
    """Put a delivery's message into its queue, as a publisher does."""
    defaults = {"id": DELIVERY, "task": "memory.keep", "retries": 0, "eta": None, "petiole_flow": FLOW}
    origin = {"exchange": "", "routing_key": "memory"}
    properties = {"delivery_tag": tag, "delivery_info": origin}
    client.lpush("memory", json.dumps({"headers": defaults | headers, "properties": properties, "body": ""}))


def fetch_checks(commands: TransportCommands, delivery_log: DeliveryLog | None = DELIVERY_LOG) -> list[bool]:
    """Fetch all messages; return for each whether it passed the check."""
    keys, arguments = commands._fetch_arguments([SOURCE], 10, [], "fair", delivery_log)
    fetched = TransportCommands.parse_fetch_reply(commands._fetch(keys, arguments), [SOURCE], sent_at=1.0)
    assert client_of(commands).hlen("unacked") == len({message.tag for message in fetched})
    return [message.checked_at > 0 for message in fetched]


def client_of(commands: TransportCommands) -> Any:
    return commands.client


def test_a_new_delivery_passes_the_check_and_its_fetch_is_recorded(client, commands):
    put(client)

    assert fetch_checks(commands) == [True]

    (recorded,) = map(json.loads, client.lrange("p:attempts:" + DELIVERY, 0, -1))
    assert (recorded["worker"], recorded["consumer"], recorded["is_fetched"]) == ("one@here", "holder-1", True)
    assert 0 < client.pttl("p:attempts:" + DELIVERY) <= 60_000


def test_a_copy_of_a_fetched_message_does_not_pass_the_check(client, commands):
    put(client, "tag-1")
    put(client, "tag-2")

    assert fetch_checks(commands) == [True, False]
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
def test_a_message_with_a_history_does_not_pass_the_check(client, commands, headers):
    put(client, **headers)

    assert fetch_checks(commands) == [False]
    assert not client.exists("p:attempts:" + DELIVERY)


@pytest.mark.parametrize("key", ["p:inbox:" + DELIVERY, "p:attempts:" + DELIVERY, f"p:aborted:memory:{FLOW}"])
def test_a_handled_attempted_or_aborted_delivery_does_not_pass_the_check(client, commands, key):
    client.set(key, "there")
    put(client)

    assert fetch_checks(commands) == [False]


def test_without_a_delivery_log_nothing_is_recorded(client, commands):
    put(client)

    assert fetch_checks(commands, delivery_log=None) == [False]
    assert not client.exists("p:attempts:" + DELIVERY)


def test_an_ack_that_names_its_delivery_marks_it_as_handled(client, commands):
    put(client)
    fetch_checks(commands)

    commands.fetch([], 0, [Ack("tag-1", DELIVERY)], delivery_log=DELIVERY_LOG)

    assert client.get("p:inbox:" + DELIVERY) == b"done"
    assert not client.exists("p:attempts:" + DELIVERY)
    assert client.hlen("unacked") == client.hlen("held") == 0


def test_an_ack_without_the_lease_marks_nothing(client, commands):
    put(client)
    fetch_checks(commands)
    client.hset("held", "tag-1", "holder-2")

    commands.fetch([], 0, [Ack("tag-1", DELIVERY)], delivery_log=DELIVERY_LOG)

    assert not client.exists("p:inbox:" + DELIVERY)
    assert client.exists("p:attempts:" + DELIVERY)
    assert client.hlen("unacked") == 1


def test_many_acks_with_and_without_delivery_are_sent_in_one_call(client, commands):
    for number in range(1200):
        put(client, f"tag-{number}", id=f"delivery-{number}")
    for _ in range(120):
        commands.fetch([SOURCE], 10, [], delivery_log=DELIVERY_LOG)

    acks = [Ack(f"tag-{number}", f"delivery-{number}" if number % 2 else "") for number in range(1200)]
    commands.fetch([], 0, acks, delivery_log=DELIVERY_LOG)

    assert client.hlen("unacked") == 0
    assert len(client.keys("p:inbox:*")) == 600


def test_pending_marks_of_a_lost_connection_are_sent_by_the_next(clean_broker_url):
    server = redis.Redis.from_url(clean_broker_url)
    put(server)
    with Connection(petiole.tasks.transport.with_transport_prefix(clean_broker_url)) as connection:
        lost: Any = connection.channel()
        following: Any = connection.channel()
        for channel in (lost, following):
            channel.delivery_log = DELIVERY_LOG
        lost.basic_get("memory")
        lost.mark_handled("tag-1", DELIVERY)
        lost.client.connection_pool.disconnect()
        lost._acks.append(Ack("tag-1", DELIVERY))

        following.take_over_acks(lost)
        following.send_acks()

    assert server.get("p:inbox:" + DELIVERY) == b"done"


def test_a_check_is_valid_for_one_second_and_until_an_abort_in_this_process():
    recent, now = RecentDeliveries(a_bus()), time.monotonic()
    assert recent.is_check_valid(now)
    assert not recent.is_check_valid(now - MAX_CHECK_AGE_S)
    assert not recent.is_check_valid(0.0)

    recent.invalidate_checks()

    assert not recent.is_check_valid(now)
    assert recent.is_check_valid(time.monotonic())
