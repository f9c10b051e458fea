"""The network between a worker and the broker: slow, silent, or cut in the middle of a word."""

from __future__ import annotations

import random
import time

import pytest

from petiole.events.errors import BrokerUnavailable, StateStoreUnavailable
from petiole.tasks.publication import PublishTask
from tests.support.apps import a_bus
from tests.support.inside import Inside
from tests.support.traffic import IS_FULL, Publisher, an_event

CUTS = 300 if IS_FULL else 40


def test_a_worker_notices_a_silent_connection_and_makes_a_new_one(  # noqa: PLR0917 - fixtures
    system, server, proxy, counts, eventually, capsys
):
    system.environment["PETIOLE_BROKER_URL"] = proxy.url
    worker = system.worker("only", "--pool", "threads", "-c", "2")
    bus = a_bus(server.url)

    with Publisher(server.url, counts):
        eventually(lambda: len(counts.acknowledged) > 20, 20, system.logs)
    eventually(lambda: counts.is_complete(bus), 30, lambda: counts.line(bus))
    # Idle: it sends nothing that could time out, and only waits for a bell.
    proxy.is_silent = True
    silent_at = time.monotonic()
    eventually(lambda: time.monotonic() > silent_at + 2, 5)
    # What was open stays silent for ever; only new connections get through.
    proxy.is_silent = False
    before = len(counts.runs.read_text())
    with Publisher(server.url, counts, pause_s=0.1):
        eventually(lambda: len(counts.runs.read_text()) > before, 60, system.logs)
        noticed_s = time.monotonic() - silent_at

    eventually(lambda: counts.is_complete(bus), 60, lambda: counts.line(bus))
    with capsys.disabled():
        print(f"\nsilent connection: {counts.line(bus)}; handled again after {noticed_s:.1f} s")
    assert worker.poll() is None
    assert noticed_s < 30
    assert counts.doubled(bus) == 0


@pytest.mark.long
def test_a_slow_network_loses_nothing(system, server, proxy, counts, eventually, capsys):  # noqa: PLR0917 - fixtures
    proxy.latency_s = 0.05
    proxy.bytes_per_s = 2_000_000
    system.environment["PETIOLE_BROKER_URL"] = proxy.url
    system.worker("only", "--pool", "threads", "-c", "2")
    bus = a_bus(server.url)

    with Publisher(proxy.url, counts), Publisher(proxy.url, counts, by="delay"):
        eventually(lambda: len(counts.acknowledged) >= 20, 30, lambda: counts.refused)

    eventually(lambda: counts.is_complete(bus), 40, lambda: counts.line(bus))
    with capsys.disabled():
        print(f"\n50 ms each way: {counts.line(bus)}")
    assert counts.refused.total() == 0
    assert counts.doubled(bus) == 0


@pytest.mark.parametrize("by", ["run", "delay"])
def test_a_publish_that_is_cut_in_its_middle_is_an_error_or_an_acknowledgement(by, server, proxy, capsys):
    bus = a_bus(proxy.url)
    publish = bus.app.tasks[PublishTask.name]
    call = publish.run if by == "run" else publish.delay
    acknowledged, refused = [], []

    for number in range(CUTS):
        event = an_event(number)
        proxy.cut(after_bytes=random.randint(1, 600))
        try:
            call(event)
            acknowledged.append(event)
        except (BrokerUnavailable, StateStoreUnavailable):
            refused.append(event)
    proxy.cut(after_bytes=1 << 40)
    for event in refused:
        publish.run(event)

    if by == "delay":
        waiting = Inside(server.url).queue_depth("publish")
        told = f"acknowledged {len(acknowledged)}, refused {len(refused)}, waiting {waiting}"
        assert waiting >= len(acknowledged)
    else:
        recorded = [each["event_id"] for each in Inside(server.url).history()]
        lost = {event.event_id for event in (*acknowledged, *refused)} - set(recorded)
        twice = len(recorded) - len(set(recorded))
        told = f"acknowledged {len(acknowledged)}, refused {len(refused)}, lost {len(lost)}, published twice {twice}"
        assert (lost, twice) == (set(), 0)
    with capsys.disabled():
        print(f"\n{proxy.cuts} connections cut in {CUTS} publishes by {by}: {told}")
    assert proxy.cuts > CUTS // 2
