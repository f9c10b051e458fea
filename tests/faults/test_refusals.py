"""A server that answers with errors: workers wait until it takes commands again, and tell why.

Each refusal is the server's own: it becomes a replica, it cannot save, it loads its data, it is one of a cluster, or
its account loses a permission.
"""

from __future__ import annotations

import secrets
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import kombu
import pytest
import redis

from petiole.events.errors import BrokerUnavailable, PublishOutcomeUnknown
from petiole.tasks.publication import PublishTask
from petiole.workers.process.embedded_broker import server_binary
from tests.support import server_faults
from tests.support.apps import a_bus
from tests.support.brokers import Server
from tests.support.inside import Inside, delete_queues
from tests.support.processes import free_ports
from tests.support.traffic import Publisher, an_event

ONE_AGENT = """
from petiole.events import Event, MessageEvent
from petiole.tasks import Agent

one = Agent("one")

@one.on("input.*")
def answer(event: Event) -> MessageEvent:
    return event.caused(MessageEvent, event_type="message.one")
"""

Refusal = Callable[[Server], AbstractContextManager[None]]

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


def by_client(fault: Callable[[redis.Redis], AbstractContextManager[None]]) -> Refusal:
    @contextmanager
    def refusing(server: Server) -> Iterator[None]:
        with server.client() as client, fault(client):
            yield

    return refusing


refusals = pytest.mark.parametrize(
    "refusal",
    [
        (replica, "READONLY"),
        pytest.param((stale_replica, "MASTERDOWN"), marks=pytest.mark.long),
        pytest.param((by_client(server_faults.too_few_replicas), "NOREPLICAS"), marks=pytest.mark.long),
        (by_client(server_faults.forbidden), "NOPERM"),
        pytest.param((by_client(server_faults.unsaved), "MISCONF"), marks=pytest.mark.long),
    ],
    ids=["replica", "stale replica", "too few replicas", "no permission", "failed save"],
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


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run_server(home: Path, *options: str) -> subprocess.Popen[bytes]:
    """Run a server with options of its own; not as the embedded broker, which waits until it takes commands."""
    return subprocess.Popen([server_binary(), *options, "--daemonize", "no"], cwd=home, stdout=subprocess.DEVNULL)


@pytest.mark.long
def test_while_the_server_loads_its_data_workers_wait_and_publishers_are_told(system, server, counts, eventually):
    worker = system.worker("first", "--pool", "threads")
    bus = a_bus(server.url)
    publish = bus.app.tasks[PublishTask.name]
    for number in range(40):
        counts.acknowledged.append(publish.run(an_event(number)).event.event_id)
    eventually(lambda: counts.is_complete(bus), 20, system.logs)

    with server.client() as client:
        # No two are alike, so each is long enough in the file for the server to look for clients after it.
        client.mset({f"other {number}": secrets.token_hex(1_000) for number in range(2_000)})
        client.bgrewriteaof()
        eventually(lambda: not client.info("persistence")["aof_rewrite_in_progress"], 20)
    server.kill()
    slowly = ("--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024")
    loading = run_server(server.home / "valkey", "valkey.conf", *slowly)
    try:
        eventually(lambda: REFUSES + "LOADING" in system.logs(), 30, system.logs)
        with pytest.raises(BrokerUnavailable, match=REFUSES + "LOADING"):
            publish.run(an_event())
    finally:
        loading.kill()
        loading.wait()
    server.start()

    with Publisher(server.url, counts):
        eventually(lambda: len(counts.acknowledged) > 50, 30, lambda: counts.refused)
    eventually(lambda: counts.is_complete(bus), 30, lambda: counts.line(bus))
    assert worker.poll() is None
    assert counts.doubled(bus) == 0


def test_a_server_in_cluster_mode_is_told_to_publishers_and_no_worker_starts_at_it(system, tmp_path, eventually):
    port, bus_port = free_ports(2)
    cluster = ("--cluster-enabled", "yes", "--cluster-port", str(bus_port), "--save", "")
    down = run_server(tmp_path, "--bind", "127.0.0.1", "--port", str(port), *cluster)
    url = f"redis://127.0.0.1:{port}/0"
    system.environment["PETIOLE_BROKER_URL"] = url
    try:
        eventually(lambda: _listens(port), 20)
        with pytest.raises(BrokerUnavailable, match=REFUSES + "CROSSSLOT"):
            a_bus(url).app.tasks[PublishTask.name].run(an_event())
        worker = system.start("celery", "-A", "workers", "worker", "--pool", "solo", "-l", "INFO")
        assert worker.wait(60) != 0
    finally:
        down.kill()
        down.wait()
    assert "the broker runs in cluster mode, which is not served" in system.logs()
    assert "Traceback" not in system.logs()


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
