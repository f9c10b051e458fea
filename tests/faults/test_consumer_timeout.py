"""RabbitMQ's `consumer_timeout`: a handler runs for longer than the broker waits for an acknowledgement."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import kombu.pools
import pytest

from petiole.tasks.publication import PublishTask
from tests.support.apps import a_bus
from tests.support.brokers import RABBITMQ, RabbitServer
from tests.support.inside import Inside
from tests.support.traffic import an_event

CONSUMER_TIMEOUT_S, HANDLER_S = 3, 12

SLOW_AGENT = f"""
import os, time
from petiole.events import Event, MessageEvent
from petiole.tasks import Agent

one = Agent("one")
runs = os.open(os.environ["RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@one.on("input.*")
def answer(event: Event) -> MessageEvent:
    os.write(runs, b"run\\n")
    time.sleep({HANDLER_S})
    return event.caused(MessageEvent, event_type="message.one")
"""


@pytest.fixture
def impatient_rabbit(tmp_path: Path) -> Iterator[RabbitServer]:
    if not RABBITMQ.exists():
        pytest.skip("apt-get install rabbitmq-server")
    home = tmp_path / "rabbit"
    home.mkdir()
    # It looks at its channels once a minute by default.
    (home / "rabbitmq.config").write_text(
        f"[{{rabbit, [{{consumer_timeout, {CONSUMER_TIMEOUT_S * 1_000}}}, {{channel_tick_interval, 1000}}]}}].\n"
    )
    server = RabbitServer(home)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        kombu.pools.reset()


@pytest.mark.processes
def test_a_handler_that_outlasts_the_consumer_timeout_runs_once_and_no_worker_ends(
    node, impatient_rabbit, clean_broker_url, eventually
):
    node.module("slow", SLOW_AGENT)
    runs = node.home / "runs"
    node.environment.update(
        PETIOLE_BROKER_URL=impatient_rabbit.url,
        PETIOLE_STATE_URL=clean_broker_url,
        PETIOLE_AGENTS="slow",
        RUNS=str(runs),
    )
    workers = [node.worker("first", "--pool", "prefork", "-c", "2"), node.worker("second", "--pool", "threads")]
    bus = a_bus(impatient_rabbit.url, state_url=clean_broker_url)

    bus.app.tasks[PublishTask.name].run(an_event())

    eventually(lambda: "message.one" in Inside(bus).topics(), HANDLER_S + 20, node.logs)
    assert "the broker closed the channel" in node.logs()
    # The copy that waited finds the delivery settled.
    eventually(lambda: Inside(bus).delayed() == 0, 40, node.logs)
    assert runs.read_text().split() == ["run"]
    assert [worker.poll() for worker in workers] == [None, None]
