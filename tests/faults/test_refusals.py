"""A server that answers with errors: workers wait until it takes commands again, and tell why.

Each refusal is the server's own: it becomes a replica, it cannot save, or its account loses a permission.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import kombu
import pytest

from petiole.events.errors import BrokerUnavailable, PublishOutcomeUnknown
from petiole.tasks.publication import PublishTask
from tests.support.apps import a_bus
from tests.support.brokers import Server
from tests.support.inside import Inside, delete_queues
from tests.support.traffic import Publisher, an_event

ONE_AGENT = """
from petiole.events import Event, MessageEvent
from petiole.tasks import Agent

one = Agent("one")

@one.on("input.*")
def answer(event: Event) -> MessageEvent:
    return event.caused(MessageEvent, event_type="message.one")
"""

REFUSES = "the server refuses commands: "


@contextmanager
def replica(server: Server) -> Iterator[None]:
    """Let the server follow another one that is not there: it refuses writes, and ends blocking commands."""
    with server.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        try:
            yield
        finally:
            client.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def stale_replica(server: Server) -> Iterator[None]:
    """Let it refuse reads, too."""
    with server.client() as client:
        client.config_set("replica-serve-stale-data", "no")
        with replica(server):
            yield


@contextmanager
def lonely(server: Server) -> Iterator[None]:
    """Let it demand a replica that it does not have."""
    with server.client() as client:
        client.config_set("min-replicas-to-write", 1)
        try:
            yield
        finally:
            client.config_set("min-replicas-to-write", 0)


@contextmanager
def forbidden(server: Server) -> Iterator[None]:
    """Take the permission to write from the account."""
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-@write", "-eval", "-evalsha", "-bzpopmin")
        try:
            yield
        finally:
            client.execute_command("ACL", "SETUSER", "default", "+@all")


refusals = pytest.mark.parametrize(
    "refusal",
    [
        (replica, "READONLY"),
        pytest.param((stale_replica, "MASTERDOWN"), marks=pytest.mark.long),
        (lonely, "NOREPLICAS"),
        (forbidden, "NOPERM"),
    ],
    ids=["replica", "stale replica", "too few replicas", "no permission"],
)


@refusals
def test_a_server_that_refuses_for_a_while_ends_no_worker_and_loses_nothing(
    refusal, system, server, counts, eventually
):
    refusing, code = refusal
    workers = [system.worker("first", "--pool", "prefork", "-c", "2"), system.worker("second", "--pool", "threads")]
    bus = a_bus(server.url)

    with Publisher(server.url, counts), Publisher(server.url, counts, by="delay"):
        eventually(lambda: len(counts.acknowledged) > 30, 30, system.logs)
        with refusing(server):
            eventually(lambda: system.logs().count(REFUSES + code) >= 2, 30, system.logs)
        acknowledged = len(counts.acknowledged)
        eventually(lambda: len(counts.acknowledged) > acknowledged + 20, 30, lambda: counts.refused)

    eventually(lambda: counts.is_complete(bus), 60, lambda: counts.line(bus))
    assert [worker.poll() for worker in workers] == [None, None]
    assert set(counts.refused) <= {"BrokerUnavailable"}
    assert counts.doubled(bus) == 0


@refusals
@pytest.mark.parametrize("by", ["run", "delay"])
def test_a_publisher_is_told_why_the_server_refuses_and_that_nothing_was_published(by, refusal, server):
    refusing, code = refusal
    bus = a_bus(server.url)
    publish = bus.app.tasks[PublishTask.name]
    call = publish.run if by == "run" else publish.delay
    event = an_event()
    call(an_event())
    before = Inside(bus).topics()

    with refusing(server), pytest.raises(BrokerUnavailable, match=REFUSES + code) as refused:
        call(event)

    assert not isinstance(refused.value, PublishOutcomeUnknown)
    assert Inside(bus).topics() == before
    call(event)


@pytest.mark.timeout(60)
def test_a_worker_and_a_beat_that_start_at_a_refusing_server_wait_for_it(system, server, counts, eventually):
    bus = a_bus(server.url)

    with replica(server):
        worker = system.start("celery", "-A", "workers", "worker", "--pool", "solo", "-n", "late@%h", "-l", "INFO")
        beat = system.start("celery", "-A", "workers", "beat", "-l", "INFO")
        eventually(lambda: system.logs().count(REFUSES + "READONLY") >= 2, 30, system.logs)

    # Before, nobody has ever subscribed.
    eventually(lambda: "ready." in system.logs(), 20, system.logs)
    with Publisher(server.url, counts):
        eventually(lambda: len(counts.acknowledged) > 5, 20, lambda: counts.refused)
    eventually(lambda: counts.is_complete(bus), 30, lambda: (counts.line(bus), counts.missing(bus)))
    assert [worker.poll(), beat.poll()] == [None, None]


def test_a_refusing_state_store_beside_another_broker_ends_no_worker(system, server, rabbit_url, eventually):
    with kombu.Connection(rabbit_url) as connection:
        delete_queues(connection, "one", "one.urgent", "publish", "publish.urgent")
    system.module("two_agents", ONE_AGENT)
    system.environment.update(PETIOLE_BROKER_URL=rabbit_url, PETIOLE_STATE_URL=server.url)
    workers = [system.worker("first", "--pool", "prefork", "-c", "2"), system.worker("second", "--pool", "threads")]
    bus = a_bus(rabbit_url, state_url=server.url)
    publish = bus.app.tasks[PublishTask.name]
    events = [an_event(number) for number in range(40)]

    with replica(server):
        for event in events:
            publish.delay(event)
        late = system.start("celery", "-A", "workers", "worker", "--pool", "solo", "-n", "late@%h", "-l", "INFO")
        eventually(lambda: system.logs().count(REFUSES + "READONLY") >= 4, 30, system.logs)

    eventually(lambda: Inside(bus).topics().count("message.one") == len(events), 60, system.logs)
    assert [worker.poll() for worker in (*workers, late)] == [None, None, None]
