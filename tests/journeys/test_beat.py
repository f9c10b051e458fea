"""Beat: ticks and metrics summaries, from one beat or two, whether or not workers run."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence

import pytest
import time_machine

from petiole.events.catalog.request import RequestContent, RequestEvent, ResponseSuccessEvent, SuccessContent
from petiole.events.catalog.system import TickEvent
from petiole.tasks import Agent, RetryPolicy
from petiole.tasks.operations import metrics
from petiole.tasks.periodic import TickTask, slot_id, slot_number
from tests.support.inside import Inside

# Scaled, so that the suite is quick; PETIOLE_FAULTS=full takes the time that a system would.
FULL = os.environ.get("PETIOLE_FAULTS") == "full"
INTERVAL_S, TICKS = (1.0, 30) if FULL else (0.5, 20)

CLOCK = r"""
from petiole.events import Event
from petiole.events.catalog.system import TickEvent
from petiole.tasks import Agent, Context

clock = Agent("clock")

@clock.on("system.tick")
def strike(event: TickEvent) -> None:
    with open("struck", "a") as struck:
        struck.write(f"{event.content.slot}\n")
"""


@pytest.fixture
def clock(node):
    node.module("clock", CLOCK)
    node.environment.update(
        PETIOLE_AGENTS="clock,petiole.workers.agents.supervisor",
        PETIOLE_TICK_INTERVAL_S=str(INTERVAL_S),
        PETIOLE_METRICS_INTERVAL_S="0",
    )
    return node


def slots(inside: Inside) -> list[int]:
    return [event["content"]["slot"] for event in inside.history("system.tick")]


def struck(node) -> list[int]:
    kept = node.home / "struck"
    return [int(line) for line in kept.read_text().split()] if kept.exists() else []


@pytest.mark.parametrize("scheduler", ["default", pytest.param("redbeat", marks=pytest.mark.long)])
def test_two_beats_tick_once_in_each_interval(clock, inside, eventually, scheduler):
    options = ["-S", "redbeat.RedBeatScheduler"] if scheduler == "redbeat" else []
    clock.worker("w")
    for _ in range(2):
        start_beat(clock, options)
    eventually(lambda: len(slots(inside)) >= 2, 30, clock.logs)

    first = time.monotonic()
    before = len(slots(inside))
    eventually(lambda: time.monotonic() - first >= TICKS * INTERVAL_S, TICKS * INTERVAL_S + 5)

    ticked = slots(inside)
    # A machine that is busy lets a tick fall out.
    assert TICKS * 0.7 <= len(ticked) - before <= (time.monotonic() - first) / INTERVAL_S + 2
    assert len(set(ticked)) == len(ticked)
    assert ticked == sorted(ticked)
    eventually(lambda: struck(clock) == ticked[: len(struck(clock))] and len(struck(clock)) >= len(ticked) - 1, 20)


def start_beat(node, options: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    schedule = node.home / f"schedule-{len(node.processes)}"
    process: subprocess.Popen[bytes] = node.start(
        "celery", "-A", "workers", "beat", "--pidfile=", "-s", str(schedule), "-l", "INFO", *options
    )
    return process


@pytest.mark.long
def test_with_redbeat_another_beat_goes_on_where_the_one_that_ticked_was_killed(clock, inside, eventually):
    clock.worker("w")
    first = start_beat(clock, ["-S", "redbeat.RedBeatScheduler"])
    eventually(lambda: len(slots(inside)) >= 2, 30, clock.logs)
    start_beat(clock, ["-S", "redbeat.RedBeatScheduler"])

    first.kill()
    first.wait()
    before = len(slots(inside))

    # The lock of the one that is gone lives for ten seconds.
    eventually(lambda: len(slots(inside)) >= before + 4, 40, clock.logs)


def test_ticks_do_not_pile_up_while_no_worker_runs(clock, inside, eventually):
    clock.environment["PETIOLE_HEARTBEAT_TIMEOUT_S"] = "2"
    worker = clock.worker("w")
    start_beat(clock)
    eventually(lambda: len(struck(clock)) >= 2, 30, clock.logs)
    worker.kill()
    worker.wait()
    old = struck(clock)[-1]
    down_at = time.monotonic()
    eventually(lambda: time.monotonic() - down_at >= 20 * INTERVAL_S, 20 * INTERVAL_S + 5)

    up_at = time.time()
    clock.worker("again")
    eventually(lambda: struck(clock)[-1] > slot_number(up_at, INTERVAL_S) + 4, 30, clock.logs)

    late = [slot for slot in struck(clock) if old < slot < slot_number(up_at, INTERVAL_S) - 1]
    assert len(late) <= 2
    assert inside.queue_depth("publish", "clock") <= 2


@pytest.mark.long
def test_beat_is_silent_once_the_system_was_shut_down(clock, inside, eventually):
    worker = clock.worker("w")
    start_beat(clock)
    eventually(lambda: len(slots(inside)) >= 1, 30, clock.logs)

    clock.environment["PETIOLE_PUBLISHER"] = "operator"
    clock.run("from tasks import report; report('the house burns', 'critical')")

    assert worker.wait(timeout=60) == 0, clock.logs()
    stopped_at = time.monotonic()
    eventually(lambda: time.monotonic() - stopped_at >= 5 * INTERVAL_S, 10)
    assert inside.topics()[-1] == "system.stopped"
    assert inside.queue_depth("publish") == 0


def test_an_interval_that_is_none_is_refused_at_the_start(clock):
    clock.environment["PETIOLE_TICK_INTERVAL_S"] = "often"

    assert start_beat(clock).wait(timeout=30) != 0
    assert "PETIOLE_TICK_INTERVAL_S is 'often'" in clock.logs()


def test_an_interval_of_0_switches_off(clock):
    for name in ("TICK", "METRICS", "CONSOLIDATION"):
        clock.environment[f"PETIOLE_{name}_INTERVAL_S"] = "0"

    shown = clock.run("from workers import app; print(*app.conf.beat_schedule)")

    assert shown == "petiole.session_expiry\n"


def test_a_slot_has_one_name_whoever_makes_it():
    assert slot_id("tick", 1.0, slot_number(100.01, 1.0)) == slot_id("tick", 1.0, slot_number(100.99, 1.0))
    assert slot_id("tick", 1.0, 100) != slot_id("tick", 1.0, 101) != slot_id("metrics", 1.0, 101)


# In the harness


def test_a_clock_that_jumps_makes_no_tick_twice_and_none_for_the_time_it_leaps_over(harness, a_message):
    harness.send_through(a_message())
    tick = harness.bus.app.tasks[TickTask.name]

    for moment in (1_000.2, 1_001.2, 1_000.7, 1_001.3, 4_600.1):
        with time_machine.travel(moment, tick=False):
            tick.run(interval_s=1.0, slot=slot_number(time.time(), 1.0))

    slots = [each.content.slot for each in harness.published_events() if isinstance(each, TickEvent)]
    assert slots == [1_000, 1_001, 4_600]


def asked(number: int) -> RequestEvent:
    content = RequestContent(request_type=f"kind {number % 2}", requester="me", responder="data")
    return RequestEvent(content=content)


def answered(request: RequestEvent) -> ResponseSuccessEvent:
    said = request.content
    content = SuccessContent(
        request_type=said.request_type,
        requester=said.requester,
        responder=said.responder,
        request_id=said.request_id,
        parameters={"response": 1},
    )
    return request.caused(ResponseSuccessEvent, content=content)


def test_a_summary_counts_requests_and_answers_and_how_long_they_took(harness, eventually):
    requests, first = [asked(number) for number in range(3)], time.monotonic()
    for request in requests:
        harness.publish(request)
    began = time.monotonic()
    eventually(lambda: time.monotonic() - began >= 0.1, 1)
    for request in requests[:2]:
        harness.publish(answered(request))
    took_ms = (time.monotonic() - first) * 1_000

    report = metrics.collect_metrics(harness.bus, 60).report

    assert (report.total_requests, report.total_responses) == (3, 2)
    assert 90 <= report.avg_execution_time_ms <= took_ms
    assert report.request_types == {"kind 0": 2, "kind 1": 1}
    assert report.agent_metrics == {"data": 3}


def test_a_summary_without_requests_has_zeros(harness):
    report = metrics.collect_metrics(harness.bus, 60).report

    assert (report.total_requests, report.avg_execution_time_ms, report.request_types) == (0, 0.0, {})


def test_a_summary_begins_where_the_one_before_ended_and_knows_an_older_requests_time(harness):
    request = asked(1)
    harness.publish(request)
    first = metrics.collect_metrics(harness.bus, 60)
    Inside(harness).save_summary(first)
    harness.publish(answered(request))

    second = metrics.collect_metrics(harness.bus, 60).report

    assert (first.report.total_requests, first.report.total_responses) == (1, 0)
    assert (second.total_requests, second.total_responses) == (0, 1)
    assert second.avg_execution_time_ms > 0


def test_a_summary_tells_retries_and_dead_letters_since_the_last_one(harness, a_message):
    agent = Agent("failing")

    @agent.on("input.*", retry=RetryPolicy(max_attempts=3))
    def fail(event: object) -> None:
        raise RuntimeError("always")

    harness.add(agent)
    harness.send_through(a_message())

    first = metrics.collect_metrics(harness.bus, 60)
    Inside(harness).save_summary(first)
    second = metrics.collect_metrics(harness.bus, 60).report

    assert (first.report.retries, first.report.dead_letters) == (2, 1)
    assert (second.retries, second.dead_letters) == (0, 0)


@pytest.mark.long
def test_beat_has_summaries_published_with_depth_and_lag(clock, inside, eventually):
    clock.environment.update(PETIOLE_METRICS_INTERVAL_S="1", PETIOLE_TICK_INTERVAL_S="0")
    clock.worker("clock", "-Q", "clock").kill()
    clock.worker("publisher", "-Q", "publish")
    code = """
from petiole.events.catalog.system import TickEvent, Tick
from petiole.tasks import publish
for n in range(3):
    publish(TickEvent(content=Tick(interval_s=1.0, slot=n)))
"""
    start_beat(clock)
    clock.environment["PETIOLE_PUBLISHER"] = "operator"
    clock.run(code)

    eventually(lambda: len(inside.history("system.metrics.summary")) >= 2, 30, clock.logs)

    content = inside.history("system.metrics.summary")[-1]["content"]
    assert content["depth"]["clock"] == 3
    assert 0 < content["lag_s"]["clock"] < 60
    assert "publish" not in content["lag_s"]
