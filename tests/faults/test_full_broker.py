"""A broker without memory: publishers are told so, what is there is kept, and all goes on when there is room again."""

from __future__ import annotations

import time

import pytest

from petiole.events.errors import BrokerFull
from petiole.tasks.publication import PublishTask
from tests.support.apps import a_bus
from tests.support.inside import Inside
from tests.support.traffic import IS_FULL, Publisher, an_event

FULL_S = 20.0 if IS_FULL else 3.0


@pytest.mark.parametrize("by", ["run", "delay"])
def test_a_publisher_is_told_that_the_broker_is_full_and_may_publish_again(by, server):
    bus = a_bus(server.url)
    publish = bus.app.tasks[PublishTask.name]
    call = publish.run if by == "run" else publish.delay
    event = an_event()
    call(an_event())
    before = Inside(bus).topics()

    with server.full(), pytest.raises(BrokerFull, match="maxmemory"):
        call(event)

    assert Inside(bus).topics() == before
    call(event)


def test_a_full_broker_loses_nothing_and_its_workers_go_on(system, server, counts, eventually, capsys):
    workers = [system.worker("first", "--pool", "prefork", "-c", "2"), system.worker("second", "--pool", "threads")]
    bus = a_bus(server.url)

    with Publisher(server.url, counts), Publisher(server.url, counts, by="delay"):
        eventually(lambda: len(counts.acknowledged) > 30, 20)
        with server.full():
            full_at = time.monotonic()
            eventually(lambda: time.monotonic() > full_at + FULL_S, 2 * FULL_S)
            refused = counts.refused["BrokerFull"]
        acknowledged = len(counts.acknowledged)
        eventually(lambda: len(counts.acknowledged) > acknowledged + 20, 30, lambda: counts.refused)

    eventually(lambda: counts.is_complete(bus), 60, lambda: counts.line(bus))
    with capsys.disabled():
        print(f"\nbroker full for {FULL_S:.0f} s: {counts.line(bus)}")
    assert refused > 0
    assert set(counts.refused) == {"BrokerFull"}
    assert [worker.poll() for worker in workers] == [None, None]
    assert counts.doubled(bus) == 0
