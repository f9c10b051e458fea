"""The error channel: who hears it, what each severity causes, and that errors wait behind nothing else."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from petiole.events import ErrorEvent, Event, MessageEvent
from petiole.events.catalog.agent import AgentFailedEvent
from petiole.events.errors import Severity, UsageError
from petiole.tasks import Agent, Context, RetryPolicy, report
from petiole.workers.agents import supervisor
from tests.support.errors import has_code
from tests.support.inside import Inside

# Harness


def test_what_is_reported_is_heard_by_who_asked_for_errors_and_by_nobody_else(harness, a_message):
    failing, watching, all_ears = Agent("failing"), Agent("watching"), Agent("all_ears")
    heard: list[Event] = []

    @failing.on("input.*")
    def fail(event: Event) -> None:
        report(RuntimeError("the disk is full"), disk="sda")

    @watching.on_error()
    def watch(event: ErrorEvent) -> None:
        heard.append(event)

    @all_ears.on("*")
    def hear(event: Event) -> None:
        heard.append(event)

    for agent in (failing, watching, all_ears):
        harness.add(agent)
    message = a_message()
    harness.send_through(message)

    (error,) = [event for event in heard if isinstance(event, ErrorEvent)]
    assert (error.event_type, error.content.error_type, error.content.message) == (
        "error.reported",
        "RuntimeError",
        "the disk is full",
    )
    assert error.content.severity is Severity.WARNING
    assert error.content.parameters == {"agent": "failing", "disk": "sda"}
    assert error.correlation_id == message.correlation_id
    assert len(heard) == 2, "the one who hears everything heard the message alone"


def test_a_severity_that_is_none_is_refused():
    with pytest.raises(UsageError, match="give one of warning, error, critical"):
        report("bad", "WARNING")


def test_on_error_takes_patterns_of_the_error_channel_only():
    with pytest.raises(UsageError, check=has_code("invalid_pattern")):
        Agent("test").on_error("input.*")


def test_what_is_reported_leaves_although_the_handler_fails_and_once_over_its_attempts(harness, a_message):
    agent = Agent("failing")

    @agent.on("input.*")
    def fail(event: Event) -> None:
        report("the disk is full")
        raise RuntimeError("again")

    harness.add(agent)
    harness.send_through(a_message())

    first, second, *rest = [each.event_type for each in harness.published_events()]
    assert (first, second) == ("input.message.received", "error.reported")
    assert sorted(rest) == ["agent.failed", "error.dead_lettered"]


def test_warnings_are_counted_and_stop_nothing(harness, a_message):
    agent, handled = Agent("noisy"), []

    @agent.on("input.*")
    def act(event: Event) -> None:
        report("rather warm")
        handled.append(event)

    harness.add(agent)
    harness.add(supervisor.agent)
    for _ in range(20):
        harness.send_through(a_message())

    assert len(handled) == 20
    assert Inside(harness).counts()["errors:warning"] == 20


def test_an_error_ends_the_agents_work_on_that_flow_and_nobody_elses(harness, a_message):
    failing, other, ran = Agent("failing"), Agent("other"), []

    @failing.on("input.*")
    def spread(event: Event) -> list[MessageEvent]:
        numbers = [{"parameters": {"n": number}} for number in range(4)]
        return [event.caused(MessageEvent, event_type="message.step", content=each) for each in numbers]

    @failing.on("message.step")
    def step(event: MessageEvent, context: Context) -> None:
        ran.append(("failing", event.stream_id, event.content.parameters["n"]))
        if event.stream_id == "bad" and event.content.parameters["n"] == 0:
            report(RuntimeError("no use"), "error")
            raise RuntimeError("tried again no more")

    @failing.on_error("error.*")
    def hear(event: ErrorEvent) -> None:
        ran.append(("failing", "heard", event.content.message))

    @other.on("message.step")
    def also(event: MessageEvent) -> None:
        ran.append(("other", event.stream_id, event.content.parameters["n"]))

    for agent in (failing, other, supervisor.agent):
        harness.add(agent)
    harness.send_through(a_message(stream_id="bad"))
    harness.send_through(a_message(stream_id="good"))

    assert sum(each[:2] == ("failing", "bad") for each in ran) == 1
    assert sum(each[:2] == ("other", "bad") for each in ran) == 4
    assert sum(each[:2] == ("failing", "good") for each in ran) == 4
    assert ("failing", "heard", "no use") in ran, "who failed hears of it all the same"
    counts = Inside(harness).counts()
    assert (counts["aborted"], counts["errors:error"]) == (4, 1)
    assert harness.dead_letters() == []


def test_a_dead_letter_is_a_warning_and_aborts_nothing(harness, a_message):
    agent, ran = Agent("failing"), []

    @agent.on("input.*", retry=RetryPolicy(max_attempts=1))
    def fail(event: Event) -> None:
        raise RuntimeError("the disk is full")

    @agent.on("input.message.received")
    def act(event: Event) -> None:
        ran.append(event)

    harness.add(agent)
    harness.add(supervisor.agent)
    harness.send_through(a_message())

    assert len(ran) == 1
    assert harness.expect("error.dead_lettered").content.severity is Severity.WARNING


def test_an_agent_whose_handler_failed_for_good_is_told_on_the_bus_once(harness, a_message):
    agent = Agent("clumsy")

    @agent.on("input.*", retry=RetryPolicy(max_attempts=2))
    def stumble(event: Event) -> None:
        raise LookupError("no such step")

    everything = Agent("everything")

    @everything.on("*", retry=RetryPolicy(max_attempts=1))
    def listen(event: Event) -> None:
        if event.event_type == "agent.failed":
            raise RuntimeError("no news of failures, please")

    harness.add(agent)
    harness.add(everything)
    message = a_message()
    harness.send_through(message)

    (told,) = [event for event in harness.published_events() if isinstance(event, AgentFailedEvent)]
    assert (told.content.agent, told.content.error_type) == ("clumsy", "LookupError")
    assert (told.content.error, told.causation_id) == ("no such step", message.event_id)
    assert {letter.subscription for letter in harness.dead_letters()} == {"clumsy.stumble", "everything.listen"}


def test_an_error_handler_that_fails_is_buried_and_says_nothing_more(harness, a_message):
    agent = Agent("watching")

    @agent.on_error("error.*", retry=RetryPolicy(max_attempts=2))
    def watch(event: ErrorEvent) -> None:
        report("the watcher fails, too", "critical")
        raise RuntimeError("blind")

    @agent.on("input.*")
    def act(event: Event) -> None:
        report("a first error")

    harness.add(agent)
    harness.send_through(a_message())

    assert [each.event_type for each in harness.published_events()] == ["input.message.received", "error.reported"]
    assert [letter.subscription for letter in harness.dead_letters()] == ["watching.watch"]


# Real workers

HOUSE = """
import time
from petiole.events import Event, MessageEvent
from petiole.tasks import Agent, report
from petiole.workers.agents.supervisor import agent as supervisor

slow, fails = Agent("slow"), Agent("fails")

@slow.on("message.slow")
def work(event: Event) -> MessageEvent:
    time.sleep(1.5)
    return event.caused(MessageEvent, event_type="message.done", content={})

@slow.on("message.bulk")
def bulk(event: Event) -> None: ...

@fails.on("message.critical")
def end(event: Event) -> None:
    report("the house burns", "critical")
"""

POLICY = """
[[publish]]
topics = ["error.*"]
severity = "critical"
publishers = ["fails", "service"]
"""

PUBLISH = """
import json, time
from petiole.events import MessageEvent
from petiole.tasks import publish, publish_many, report
from petiole.events.errors import SystemStopping

def an_event(topic):
    return MessageEvent(event_type=topic, stream_id="s", content={{}})

{code}
"""


@pytest.fixture
def house(node):
    node.module("house", HOUSE)
    node.environment["PETIOLE_AGENTS"] = "house"
    node.environment["PETIOLE_POLICY"] = str(node.home / "policy.toml")
    (node.home / "policy.toml").write_text(POLICY)
    return node


@pytest.mark.long
def test_with_10_000_events_queued_an_error_is_handled_within_seconds(house, inside, eventually):
    house.environment["PETIOLE_LOG_FORMAT"] = "json"
    house.worker("errors", "-Q", "supervisor")
    house.worker("once", "-Q", "slow").kill()
    house.run(PUBLISH.format(code="publish_many([an_event('message.bulk') for _ in range(10_000)])"))
    house.worker("busy", "-Q", "slow")

    house.run(PUBLISH.format(code="report('something is odd')"))
    eventually(lambda: "error.reported" in house.logs(), 10, house.logs)

    waiting = inside.queue_depth("slow")
    (told,) = inside.history("error.reported")
    (noticed,) = [json.loads(line) for line in house.logs().splitlines() if '"error.reported"' in line]
    waited = datetime.fromisoformat(noticed["timestamp"]) - datetime.fromisoformat(told["timestamp"])
    assert waited.total_seconds() < 10
    assert waiting > 1_000, "the ordinary queue is still full"


def test_a_critical_error_shuts_the_system_down_in_order_and_loses_nothing(house, inside, eventually):
    workers = [
        house.worker("slow", "-Q", "slow"),
        house.worker("fails", "-Q", "fails,publish"),
        house.worker("errors", "-Q", "supervisor"),
    ]
    code = "publish_many([an_event(f'message.{each}') for each in ['slow'] * 4 + ['critical'] * 2])"
    house.run(PUBLISH.format(code=code))

    for worker in workers:
        assert worker.wait(timeout=15) == 0, house.logs()
    told = inside.topics()
    done = told.count("message.done")
    assert done >= 1, "what ran was finished"
    assert inside.queue_depth("slow") == 4 - done, "what was queued stays"
    assert told.count("system.stopping") == told.count("system.stopped") == 1
    assert told[-1] == "system.stopped"
    assert told.index("system.stopping") < told.index("message.done")
    for call in ("publish(an_event('message.bulk'))", "publish.delay(an_event('message.bulk'))"):
        code = f"try:\n    {call}\nexcept SystemStopping as refused:\n    print('refused:', refused)"
        assert "refused: the system 'petiole' was shut down" in house.run(PUBLISH.format(code=code))

    # As if it had been queued when the supervisor ended.
    late = inside.history("error.reported")[0]
    house.run(PUBLISH.format(code=f"publish({late | {'event_id': '0192f0c1-7a5e-7cc3-98c8-3f1d2b6a9e10'}!r})"))
    house.worker("all")

    eventually(lambda: inside.topics().count("message.done") == 4, 20, house.logs)
    house.run(PUBLISH.format(code="publish(an_event('message.bulk'))"))
    assert inside.topics()[-1] == "message.bulk"


@pytest.mark.long
def test_a_publisher_that_runs_notices_the_shutdown_and_the_next_start(house, inside, eventually):
    worker = house.worker("errors")
    code = """
seen = []
while seen[-2:] != ["refused", "published"]:
    try:
        publish(an_event("message.bulk"))
        now = "published"
    except SystemStopping:
        now = "refused"
    if seen[-1:] != [now]:
        seen.append(now)
        print(now, flush=True)
    time.sleep(0.02)
"""
    house.module("seen_from_outside", PUBLISH.format(code=code))
    publisher = house.start("seen_from_outside")
    eventually(lambda: "published" in house.logs(), 20, house.logs)

    house.run(PUBLISH.format(code="report('the house burns', 'critical')"))

    assert worker.wait(timeout=15) == 0
    eventually(lambda: "refused" in house.logs(), 5, house.logs)
    house.worker("again")
    assert publisher.wait(timeout=10) == 0
    assert inside.topics().count("system.stopped") == 1


def test_a_report_of_any_words_is_published(harness, a_message):
    reporting = Agent("reporting")

    @reporting.on("input.*")
    def fail(event: Event) -> None:
        report(ValueError("b\udcff" + "x" * 9_000_000), path="c\udcff")
        report("d\udcff")

    harness.add(reporting)
    harness.send_through(a_message())

    reported = [event.content for event in harness.published_events() if isinstance(event, ErrorEvent)]
    assert [content.message[:7] for content in reported] == ["b\\udcffx"[:7], "d\\udcff"]
    assert reported[0].parameters["path"] == "c\\udcff"
