"""The broker goes away under load and comes back: nothing acknowledged is missing, nobody has to be restarted.

In the suite it is gone for six seconds, with PETIOLE_FAULTS=full for sixty.
"""

from __future__ import annotations

import socket
import time

import pytest

from petiole.workers.observability.liveness import find_liveness_problem
from petiole.workers.observability.readiness import find_readiness_problem
from tests.support.apps import a_bus
from tests.support.traffic import IS_FULL, Publisher

OUTAGE_S = 60.0 if IS_FULL else 6.0


@pytest.mark.timeout(120 + 2 * OUTAGE_S)
def test_an_outage_of_the_broker_loses_nothing_and_needs_no_restart(system, server, counts, eventually, capsys):
    workers = [system.worker("first", "--pool", "prefork", "-c", "2"), system.worker("second", "--pool", "threads")]
    nodes = [f"{name}@{socket.gethostname()}" for name in ("first", "second")]
    bus = a_bus(server.url)
    assert find_readiness_problem(bus, queue="one") is None

    with Publisher(server.url, counts), Publisher(server.url, counts, by="delay"):
        eventually(lambda: len(counts.acknowledged) > 30, 20)
        server.kill()
        gone_at = time.monotonic()
        reason = find_readiness_problem(bus)
        red_after_s = time.monotonic() - gone_at
        eventually(lambda: time.monotonic() > gone_at + OUTAGE_S, 2 * OUTAGE_S)
        lives = [find_liveness_problem(node) for node in nodes]
        server.start()
        back_at, before = time.monotonic(), len(counts.runs.read_text())
        eventually(lambda: len(counts.runs.read_text()) > before, 30, system.logs)
        recovered_s = time.monotonic() - back_at
        eventually(lambda: find_readiness_problem(bus, queue="one") is None, 20)

    eventually(lambda: counts.is_complete(bus), 40, lambda: counts.line(bus))
    with capsys.disabled():
        print(
            f"\nbroker gone for {OUTAGE_S:.0f} s: {counts.line(bus)}; not ready after {red_after_s:.1f} s, "
            f"handled again after {recovered_s:.1f} s, all answered after {time.monotonic() - back_at:.1f} s"
        )
    assert reason is not None
    assert red_after_s < 20
    assert lives == [None, None]
    assert recovered_s < 30
    assert [worker.poll() for worker in workers] == [None, None]
    assert counts.doubled(bus) == 0


def test_a_broker_that_is_restarted_has_all_that_it_acknowledged(system, server, counts, eventually, capsys):
    system.worker("only")
    bus = a_bus(server.url)
    restarts = 10 if IS_FULL else 2

    with Publisher(server.url, counts, pause_s=0.002), Publisher(server.url, counts, by="delay", pause_s=0.002):
        for restart in range(restarts):
            enough = len(counts.acknowledged) + 60
            eventually(lambda: len(counts.acknowledged) > enough, 30, lambda: counts.refused)  # noqa: B023
            (server.stop if restart % 2 else server.kill)()
            server.start()

    eventually(lambda: counts.is_complete(bus), 60, lambda: counts.line(bus))
    with capsys.disabled():
        print(f"\nbroker restarted {restarts} times: {counts.line(bus)}")
    assert counts.doubled(bus) == 0
