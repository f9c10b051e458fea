"""A broker that comes back with older data while workers run deliveries, or in the middle of a recovery."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from petiole.tasks.publication import PublishTask
from tests.support.apps import a_bus
from tests.support.inside import Inside
from tests.support.traffic import AGENTS, IS_FULL, an_event

SWEEPS = 8 if IS_FULL else 1


def publish_all(bus: Any, events: list[Any]) -> None:
    for event in events:
        bus.app.tasks[PublishTask.name].run(event)


def copy_of_data(server: Any, to: Path) -> Path:
    """Copy the data while the server runs, as a backup does."""
    with server.frozen():
        return Path(shutil.copytree(server.home / "valkey" / "appendonlydir", to))


def put_back(server: Any, copy: Path) -> None:
    shutil.rmtree(server.home / "valkey" / "appendonlydir")
    shutil.copytree(copy, server.home / "valkey" / "appendonlydir")


@pytest.mark.parametrize("pool", ["threads", pytest.param("prefork", marks=pytest.mark.long)])
def test_after_an_older_copy_is_restored_workers_run_what_it_has_and_publish_nothing_else(
    pool, system, server, counts, eventually
):
    system.module("two_agents", AGENTS)
    worker = system.worker("first", "--pool", pool, "-c", "4")
    bus, inside, hold = a_bus(server.url), Inside(server.url), system.home / "hold"
    older, newer = [an_event(number) for number in range(12)], [an_event(number) for number in range(12)]

    hold.touch()
    publish_all(bus, older)
    eventually(lambda: inside.leases() >= 4 and len(runs_of(counts)) == 4, 20, system.logs)
    copy = copy_of_data(server, system.home / "copy")
    hold.unlink()
    counts.acknowledged = [event.event_id for event in older]
    eventually(lambda: counts.is_complete(bus), 20, system.logs)
    before = len(runs_of(counts))
    hold.touch()
    publish_all(bus, newer)
    eventually(lambda: len(runs_of(counts)) == before + 4, 20, system.logs)
    server.kill()
    put_back(server, copy)
    server.start()
    eventually(lambda: "lease.lost" in system.logs(), 20, system.logs)
    hold.unlink()

    # The copy's deliveries were leased to this worker, which has long forgotten them.
    eventually(lambda: counts.is_complete(bus), 30, lambda: (counts.line(bus), system.logs()[-3000:]))
    eventually(lambda: inside.is_idle("one", "two"), 20, system.logs)
    assert {event.event_id for event in newer}.isdisjoint(each["causation_id"] for each in inside.history())
    publish_all(bus, older + newer)
    counts.acknowledged += [event.event_id for event in newer]
    eventually(lambda: counts.is_complete(bus), 30, lambda: (counts.line(bus), system.logs()[-3000:]))
    eventually(lambda: inside.is_idle("one", "two"), 20, system.logs)
    assert counts.doubled(bus) == 0
    assert (inside.dead_letters(), inside.leaks()) == ([], [])
    assert worker.poll() is None


def runs_of(counts: Any) -> list[str]:
    return list(counts.runs.read_text().split()) if counts.runs.exists() else []


@pytest.mark.long
@pytest.mark.timeout(60 + 60 * SWEEPS)
def test_a_restart_of_the_broker_while_it_recovers_a_lost_worker_loses_nothing(
    system, server, counts, eventually, capsys
):
    system.module("two_agents", AGENTS)
    bus, inside, hold = a_bus(server.url), Inside(server.url), system.home / "hold"
    survivor = system.worker("survivor", "--pool", "threads", "-c", "4")
    reached = 0

    for _ in range(SWEEPS):
        hold.touch()
        lost = system.worker("lost", "--pool", "threads", "-c", "4")
        events = [an_event(number) for number in range(40)]
        publish_all(bus, events)
        counts.acknowledged += [event.event_id for event in events]
        eventually(lambda: inside.leases() >= 16, 20, system.logs)
        lost.kill()
        lost.wait()
        # A consumer is silent after 2.5 s, and lost a second later.
        moment = time.monotonic() + random.uniform(2.2, 4.2)
        eventually(lambda: time.monotonic() > moment, 6)  # noqa: B023
        reached += inside.consumers() == 2
        server.kill()
        server.start()
        hold.unlink()
        eventually(lambda: counts.is_complete(bus), 40, lambda: (counts.line(bus), system.logs()[-3000:]))

    eventually(lambda: inside.is_idle("one", "two"), 20, system.logs)
    with capsys.disabled():
        print(f"\n{SWEEPS} restarts around a recovery, {reached} before its end: {counts.line(bus)}")
    assert counts.doubled(bus) == 0
    assert (inside.dead_letters(), inside.leaks()) == ([], [])
    assert survivor.poll() is None
