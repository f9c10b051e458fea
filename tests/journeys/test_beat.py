"""Beat: ticks and metrics summaries, from one beat or two, whether or not workers run."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from typing import Any

import pytest
import redis
import time_machine

from petiole.events.catalog.request import RequestContent, RequestEvent, ResponseSuccessEvent, SuccessContent
from petiole.events.catalog.system import MetricsSummaryEvent, TickEvent
from petiole.tasks import Agent, RetryPolicy
from petiole.tasks.operations import metrics
from petiole.tasks.periodic import TickTask, slot_id, slot_of

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


def ticks(client: redis.Redis) -> list[dict[str, Any]]:
    return [event for event in history(client) if event["event_type"] == "system.tick"]


def history(client: redis.Redis) -> list[dict[str, Any]]:
    entries: Any = client.xrange("petiole:history")
    return [json.loads(fields["event"]) for _, fields in entries]


def struck(node) -> list[int]:
    kept = node.home / "struck"
    return [int(line) for line in kept.read_text().split()] if kept.exists() else []


@pytest.fixture
def client(clean_broker_url):
    return redis.Redis.from_url(clean_broker_url, decode_responses=True)


@pytest.mark.timeout(150)
@pytest.mark.parametrize("scheduler", ["default", pytest.param("redbeat", marks=pytest.mark.long)])
def test_two_beats_tick_once_in_each_interval(clock, client, eventually, scheduler):
    options = ["-S", "redbeat.RedBeatScheduler"] if scheduler == "redbeat" else []
    clock.worker("w")
    for _ in range(2):
        start_beat(clock, options)
    eventually(lambda: len(ticks(client)) >= 2, 30, clock.logs)

    first = time.monotonic()
    before = len(ticks(client))
    eventually(lambda: time.monotonic() - first >= TICKS * INTERVAL_S, TICKS * INTERVAL_S + 5)

    slots = [event["content"]["slot"] for event in ticks(client)]
    assert TICKS - 1 <= len(slots) - before <= TICKS + 1
    assert len(set(slots)) == len(slots)
    assert slots == sorted(slots)
    eventually(lambda: struck(clock) == slots[: len(struck(clock))] and len(struck(clock)) >= len(slots) - 1, 5)


def start_beat(node, options: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    schedule = node.home / f"schedule-{len(node.processes)}"
    process: subprocess.Popen[bytes] = node.start(
        "celery", "-A", "workers", "beat", "--pidfile=", "-s", str(schedule), "-l", "INFO", *options
    )
    return process


@pytest.mark.long
@pytest.mark.timeout(120)
def test_with_redbeat_another_beat_goes_on_where_the_one_that_ticked_was_killed(clock, client, eventually):
    clock.worker("w")
    first = start_beat(clock, ["-S", "redbeat.RedBeatScheduler"])
    eventually(lambda: len(ticks(client)) >= 2, 30, clock.logs)
    start_beat(clock, ["-S", "redbeat.RedBeatScheduler"])

    first.kill()
    first.wait()
    before = len(ticks(client))

    # The lock of the one that is gone lives for ten seconds.
    eventually(lambda: len(ticks(client)) >= before + 4, 40, clock.logs)


@pytest.mark.timeout(150)
def test_ticks_do_not_pile_up_while_no_worker_runs(clock, client, eventually):
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
    eventually(lambda: struck(clock)[-1] > slot_of(up_at, INTERVAL_S) + 4, 30, clock.logs)

    late = [slot for slot in struck(clock) if old < slot < slot_of(up_at, INTERVAL_S) - 1]
    assert len(late) <= 2
    assert client.llen("publish\x06\x169") + client.llen("clock\x06\x169") <= 2


@pytest.mark.long
def test_beat_is_silent_once_the_system_was_shut_down(clock, client, eventually):
    worker = clock.worker("w")
    start_beat(clock)
    eventually(lambda: len(ticks(client)) >= 1, 30, clock.logs)

    clock.run("from tasks import report; report('the house burns', 'critical')")

    assert worker.wait(timeout=15) == 0, clock.logs()
    stopped_at = time.monotonic()
    eventually(lambda: time.monotonic() - stopped_at >= 5 * INTERVAL_S, 10)
    assert history(client)[-1]["event_type"] == "system.stopped"
    assert sum(client.llen(f"publish{step}") for step in ("", "\x06\x163", "\x06\x166", "\x06\x169")) == 0


@pytest.mark.parametrize("wrong", ["-1", "often", "nan", "0.01", "100000"])
def test_an_interval_that_is_none_is_refused_at_the_start(clock, wrong):
    clock.environment["PETIOLE_TICK_INTERVAL_S"] = wrong

    assert start_beat(clock).wait(timeout=30) != 0
    assert f"PETIOLE_TICK_INTERVAL_S is '{wrong}'" in clock.logs()


def test_an_interval_of_0_switches_off(clock):
    for name in ("TICK", "METRICS", "CONSOLIDATION"):
        clock.environment[f"PETIOLE_{name}_INTERVAL_S"] = "0"

    shown = clock.run("from workers import app; print(*app.conf.beat_schedule)")

    assert shown == "petiole.sessions\n"


def test_a_slot_has_one_name_whoever_makes_it():
    assert slot_id("tick", 1.0, slot_of(100.01, 1.0)) == slot_id("tick", 1.0, slot_of(100.99, 1.0))
    assert slot_id("tick", 1.0, 100) != slot_id("tick", 1.0, 101) != slot_id("metrics", 1.0, 101)


# In the harness


def test_a_clock_that_jumps_makes_no_tick_twice_and_none_for_the_time_it_leaps_over(harness, a_message):
    harness.send_through(a_message())
    tick = harness.app.adopt(TickTask)

    for moment in (1_000.2, 1_001.2, 1_000.7, 1_001.3, 4_600.1):
        with time_machine.travel(moment, tick=False):
            tick.run(interval_s=1.0, slot=slot_of(time.time(), 1.0))

    slots = [each.content.slot for each in harness.everything() if isinstance(each, TickEvent)]
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
    requests = [asked(number) for number in range(3)]
    for request in requests:
        harness.publish(request)
    began = time.monotonic()
    eventually(lambda: time.monotonic() - began >= 0.1, 1)
    for request in requests[:2]:
        harness.publish(answered(request))

    report = metrics.collect(harness.app, 60).report

    assert (report.total_requests, report.total_responses) == (3, 2)
    assert 90 <= report.avg_execution_time_ms <= 200
    assert report.request_types == {"kind 0": 2, "kind 1": 1}
    assert report.agent_metrics == {"data": 3}


def test_a_summary_without_requests_has_zeros(harness):
    report = metrics.collect(harness.app, 60).report

    assert (report.total_requests, report.avg_execution_time_ms, report.request_types) == (0, 0.0, {})


def test_a_summary_begins_where_the_one_before_ended_and_knows_an_older_requests_time(harness):
    request = asked(1)
    harness.publish(request)
    first = metrics.collect(harness.app, 60)
    harness.app.stores.counters.keep_summary(first.counts, first.until)
    harness.publish(answered(request))

    second = metrics.collect(harness.app, 60).report

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

    first = metrics.collect(harness.app, 60)
    harness.app.stores.counters.keep_summary(first.counts, first.until)
    second = metrics.collect(harness.app, 60).report

    assert (first.report.retries, first.report.dead_letters) == (2, 1)
    assert (second.retries, second.dead_letters) == (0, 0)


@pytest.mark.timeout(100)
@pytest.mark.long
def test_beat_has_summaries_published_with_depth_and_lag(clock, client, eventually):
    clock.environment.update(PETIOLE_METRICS_INTERVAL_S="1", PETIOLE_TICK_INTERVAL_S="0")
    clock.worker("clock", "-Q", "clock").kill()
    clock.worker("publisher", "-Q", "publish")
    code = """
from petiole.events.catalog.system import TickEvent, Tick
from petiole.tasks import publish
for n in range(3):
    publish(TickEvent(content=Tick(interval_s=1.0, slot=n)))
"""
    clock.run(code)
    start_beat(clock)

    def summaries() -> list[MetricsSummaryEvent]:
        told = [each for each in history(client) if each["event_type"] == "system.metrics.summary"]
        return [MetricsSummaryEvent.model_validate(each) for each in told]

    eventually(lambda: len(summaries()) >= 2, 30, clock.logs)

    content = summaries()[-1].content
    assert content.depth["clock"] == 3
    assert 0 < content.lag_s["clock"] < 60
    assert "publish" not in content.lag_s
