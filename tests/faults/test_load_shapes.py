"""Load that comes all at once, and load that rises above what a worker can do and falls again, like a sine."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import pytest

from petiole.events import MessageEvent
from petiole.tasks.publication import PublishTask
from tests.support.apps import a_bus
from tests.support.inside import Inside
from tests.support.traffic import IS_FULL

TIMERS = 10_000 if IS_FULL else 300
WAVES, WAVE_S = (4, 60.0) if IS_FULL else (1, 6.0)
HANDLED_PER_S = 40.0
"""What the worker can do: two slots, each busy for a twentieth of a second."""

MODULE = """
import os, time
from petiole.tasks import Agent

runs = os.open(os.environ["RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
clock, slow = Agent("clock"), Agent("slow")

@clock.on("message.due", "message.now")
def hear(event):
    os.write(runs, f"{event.event_type} {event.event_id} {time.time()}\\n".encode())

@slow.on("message.wave")
def take(event):
    time.sleep(0.05)
    os.write(runs, f"{event.event_type} {event.event_id} {time.time()}\\n".encode())
"""


def a_message(topic: str, number: int = 0) -> MessageEvent:
    return MessageEvent(event_type=topic, stream_id=f"s{number % 7}")


def runs_of(system: Any) -> dict[str, dict[str, list[float]]]:
    """List when each event was handled, by topic."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    file = system.home / "runs"
    for line in file.read_text().splitlines() if file.exists() else []:
        topic, event_id, at = line.split()
        found[topic][event_id].append(float(at))
    return found


@pytest.mark.timeout(400)
def test_timers_that_are_due_in_one_second_run_once_and_late_by_no_more_than_their_number(
    system, server, eventually, capsys
):
    system.module("two_agents", MODULE)
    worker = system.worker("only", "--pool", "threads", "-c", "4")
    bus, inside = a_bus(server.url), Inside(server.url)
    publish = bus.app.tasks[PublishTask.name]
    events = [a_message("message.due", number) for number in range(TIMERS)]

    first_at = datetime.now(UTC) + timedelta(seconds=4 + TIMERS * 0.02)
    for number, event in enumerate(events):
        publish.run(event, at=first_at + timedelta(seconds=number / TIMERS))
    assert datetime.now(UTC) < first_at, "a machine that is too slow for this test"
    answers: list[float] = []
    while len(runs_of(system)["message.due"]) < TIMERS:
        assert (datetime.now(UTC) - first_at).total_seconds() < 60 + TIMERS / 50, system.logs()
        began = time.monotonic()
        with server.client() as client:
            client.ping()
        answers.append(time.monotonic() - began)
        publish.run(a_message("message.now"))
        threading.Event().wait(0.2)

    eventually(lambda: inside.is_idle("clock", "publish") and not inside.delayed(), 30, inside.delayed)
    runs = runs_of(system)["message.due"]
    due = {event.event_id: first_at.timestamp() + number / TIMERS for number, event in enumerate(events)}
    late = sorted(runs[event_id][0] - due[event_id] for event_id in due)
    with capsys.disabled():
        print(
            f"\n{TIMERS} timers in a second: late by {late[len(late) // 2]:.2f} s (median), {late[-1]:.2f} s at most; "
            f"the broker answered within {max(answers) * 1_000:.0f} ms"
        )
    assert {len(times) for times in runs.values()} == {1}
    assert late[0] > -0.01
    assert inside.dead_letters() == []
    assert worker.poll() is None


@pytest.mark.long
@pytest.mark.timeout(WAVES * WAVE_S + 240)
def test_a_backlog_that_rises_and_falls_is_worked_off_in_every_wave_and_costs_the_worker_no_memory(
    system, server, eventually, capsys
):
    system.module("two_agents", MODULE)
    worker = psutil.Process(system.worker("only", "--pool", "threads", "-c", "2").pid)
    bus, inside = a_bus(server.url), Inside(server.url)
    publish = bus.app.tasks[PublishTask.name]
    published: dict[str, float] = {}
    depths: list[list[int]] = []
    memory: list[int] = []

    for _ in range(WAVES):
        began, sent, depth = time.monotonic(), 0.0, []
        while (past := time.monotonic() - began) < WAVE_S:
            # From nothing to twice what the worker can do, and back: half of the time too much.
            expected = HANDLED_PER_S * 0.8 * (past - WAVE_S / math.tau * math.sin(math.tau * past / WAVE_S))
            while sent < expected:
                event = a_message("message.wave", int(sent))
                publish.run(event)
                published[event.event_id] = time.time()
                sent += 1
            depth.append(inside.queue_depth("slow"))
            threading.Event().wait(0.05)
        eventually(lambda: inside.is_idle("slow"), WAVE_S, lambda: inside.queue_depth("slow"))
        depths.append(depth)
        memory.append(worker.memory_info().rss)

    runs = runs_of(system)["message.wave"]
    waits = sorted(runs[event_id][0] - at for event_id, at in published.items())
    with capsys.disabled():
        print(
            f"\n{len(published)} events in {WAVES} waves: backlogs of up to {[max(depth) for depth in depths]}, "
            f"waits of up to {waits[-1]:.1f} s, memory {[round(each / 2**20) for each in memory]} MiB"
        )
    assert runs.keys() == published.keys()
    assert {len(times) for times in runs.values()} == {1}
    assert min(max(depth) for depth in depths) > 5, "this fault was reached"
    assert memory[-1] < 1.15 * memory[0]
    assert (inside.dead_letters(), inside.leaks()) == ([], [])
