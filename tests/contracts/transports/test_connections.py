"""Addresses, failover, scripts and wake-ups of our transport."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier
from typing import Any

import pytest
from kombu import Connection
from kombu.exceptions import OperationalError
from kombu.transport import redis as stock

import petiole.tasks.transport
from tests.contracts.transports.connections import Inbox, bodies, publish


def test_bytes_that_are_no_message_are_kept_and_the_next_is_delivered(clean_broker_url, server):
    garbage = [b"\x00\xff", b"{}", b"[]", b"null", b'{"properties": []}', b""]
    server.lpush("q", *garbage)
    with Connection(petiole.tasks.transport.with_transport_prefix(clean_broker_url)) as connection:
        publish(connection, "hello")

        (message,) = Inbox(connection, "q").drain(1)

        assert message.decode() == "hello"
    assert server.lrange("petiole:undecodable", 0, -1) == [b"q\n" + each for each in garbage], "each with its queue"


def test_a_script_that_the_server_forgot_is_loaded_again(clean_broker_url, server):
    with Connection(petiole.tasks.transport.with_transport_prefix(clean_broker_url)) as connection:
        inbox = Inbox(connection, "q")
        publish(connection, 1)
        inbox.drain(1)
        server.script_flush()
        publish(connection, 2)

        assert bodies(inbox.drain(1)) == [2]


def test_a_message_wakes_who_waits_at_once(clean_broker_url, monkeypatch):
    monkeypatch.setattr("petiole.tasks.transport.transport.Transport.brpop_timeout", 30)
    with Connection(petiole.tasks.transport.with_transport_prefix(clean_broker_url)) as waiting:
        inbox = Inbox(waiting, "q")
        assert inbox.hears_nothing()
        with Connection(petiole.tasks.transport.with_transport_prefix(clean_broker_url)) as sending:
            publish(sending, "hello")

        assert bodies(inbox.drain(1, within=5)) == ["hello"]


def test_a_reply_is_read_also_by_who_may_hold_less_than_when_it_asked(clean_broker_url):
    with Connection(petiole.tasks.transport.with_transport_prefix(clean_broker_url)) as connection:
        inbox = Inbox(connection, "q", prefetch=2)
        inbox.channel.brpop_timeout, inbox.channel.socket_timeout = 0.1, 0.1
        publish(connection, 1)
        (first,) = inbox.drain(1)
        with suppress(TimeoutError):
            connection.drain_events(timeout=0.01)  # asks, and does not wait for the reply
        inbox.channel.qos.prefetch_count = 1
        publish(connection, 2)

        assert inbox.hears_nothing(for_s=1.5), "and the connection is not taken for a dead one"

        first.ack()
        assert bodies(inbox.drain(1)) == [2]


def test_two_threads_may_connect_a_channel_again_at_the_same_time(clean_broker_url, monkeypatch):
    kombus: Any = stock.Channel  # the stubs leave its private methods out
    build, both = kombus._connparams, Barrier(2)

    def build_together(channel: Any, asynchronous: bool = False) -> Any:
        both.wait(10)
        return build(channel, asynchronous)

    with Connection(petiole.tasks.transport.with_transport_prefix(clean_broker_url)) as connection:
        channel: Any = connection.channel()
        transport = channel.connection
        channel._disconnect_pools()
        monkeypatch.setattr(kombus, "_connparams", build_together)
        with ThreadPoolExecutor(2) as pool:
            pools = list(pool.map(lambda _: channel.pool, range(2)))

        assert {each.connection_kwargs["host"] for each in pools} == {"127.0.0.1"}
        assert channel.connection is transport


@pytest.mark.parametrize(
    ("address", "hostname", "port", "database", "is_tls"),
    [
        ("petiole+redis://:secret@somewhere:7000/3", "somewhere", 7000, "3", False),
        ("petiole+rediss://somewhere:7000/3?ssl_cert_reqs=none", "somewhere", 7000, "3", True),
        ("petiole+socket:///var/run/valkey.sock", "socket:///var/run/valkey.sock", None, "/", False),
        ("petiole+sentinel://one:26379/1;petiole+sentinel://two:26379/1", "one", 26379, "1", False),
    ],
)
def test_an_address_is_read_as_kombu_reads_it(address, hostname, port, database, is_tls):
    connection: Any = Connection(address)
    read = connection.transport.address.client

    assert (read.hostname, read.port, read.virtual_host) == (hostname, port, database or read.virtual_host)
    assert bool(read.ssl) is is_tls
    assert "secret" not in connection.as_uri()
    assert connection.as_uri().startswith("petiole+")
    assert connection.clone().transport.address.client.hostname == hostname
    assert connection.transport.driver_type == "redis"


def test_kombu_fails_over_to_the_next_address(clean_broker_url):
    connection = Connection(petiole.tasks.transport.with_transport_prefix(f"redis://127.0.0.1:1/0;{clean_broker_url}"))

    connection.ensure_connection(max_retries=3, interval_start=0, interval_step=0)

    assert type(connection.transport).__module__ == "petiole.tasks.transport.transport"
    with connection.clone() as clone:
        publish(clone, "hello")
    connection.release()


def test_a_broker_that_is_not_there_is_an_operational_error():
    with Connection("petiole+redis://127.0.0.1:1/0") as connection, pytest.raises(OperationalError):
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
