"""What Prometheus gets is what happened, in every process, also across restarts and kills."""

from __future__ import annotations

import math
import time
import urllib.request
from collections import Counter
from datetime import timedelta

import pytest
from celery import Celery
from prometheus_client.parser import text_string_to_metric_families

from petiole.events import CustomEvent, ParametersContent
from petiole.events.errors import PetioleError
from petiole.events.registry import EventRegistry
from petiole.tasks import Agent, EventBus, RateLimit, RetryPolicy
from petiole.tasks.instrumentation import EventPublished, HandlerRan, ModelUsed
from petiole.tasks.instrumentation.event_counter import EventCounter
from petiole.tasks.operations.metrics import collect_metrics
from petiole.tasks.operations.prometheus import render_metrics
from petiole.tasks.settings import Settings
from petiole.tasks.stores.event_counts import MAX_NAMES
from tests.support.apps import a_bus, as_default
from tests.support.polling import wait_until
from tests.support.processes import free_ports

AGENT = """
import os, signal, time
import redis
from petiole.events import TextMessageEvent
from petiole.tasks import Agent, RetryPolicy

KILLED = {"process": (os.getpid,), "worker": (os.getppid, os.getpid)}

seen = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"])
agent = Agent("one")

@agent.on("input.*", retry=RetryPolicy(max_attempts=2, base=0.1))
def handle(event: TextMessageEvent) -> None:
    number = int(event.content.text)
    if number == 30 and seen.set("has_killed", os.getpid(), nx=True):
        time.sleep(0.5)
        for pid in KILLED[os.environ["KILLED"]]:
            os.kill(pid(), signal.SIGKILL)
    if number % 10 == 7:
        raise ValueError("no sevens")
"""

PUBLISH = """
from petiole.events import TextContent, TextMessageEvent
from petiole.tasks import publish
for number in range({first}, {last}):
    publish(TextMessageEvent(stream_id="s", content=TextContent(text=str(number))))
"""


def samples(page):
    """Return the values of a page by the sample's name and the values of its labels."""
    families = text_string_to_metric_families(page)
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def scraped(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return samples(answer.read().decode())


@pytest.mark.parametrize(
    ("events", "killed"),
    [pytest.param(200, "process", id="200"), pytest.param(1_000, "worker", id="1000", marks=pytest.mark.long)],
)
def test_the_counts_equal_the_history_across_three_processes_a_restart_and_a_kill(
    node, inside, eventually, events, killed
):
    """The handler that is killed waits before, so that nothing is left that its processes counted in the last 20 ms."""
    bus, half = a_bus(node.environment["PETIOLE_BROKER_URL"]), events // 2
    (port,) = free_ports(1)
    node.environment.update({"PETIOLE_AGENTS": "agent_one", "PETIOLE_METRICS_PORT": str(port), "KILLED": killed})
    node.module("agent_one", AGENT)
    workers = [node.worker(name, "--pool", "prefork", "-c", "1") for name in ("first", "second", "third")]
    topic = "input.message.received"

    def outcome(name):
        return samples(render_metrics(bus)).get(("petiole_deliveries_total", topic, name, "one.handle"), 0)

    node.run(PUBLISH.format(first=0, last=half))
    eventually(lambda: outcome("handled") >= half * 0.9, 60, node.logs)
    stopped = next(worker for worker in workers if worker.poll() is None)
    stopped.terminate()
    stopped.wait(timeout=30)
    node.run(PUBLISH.format(first=half, last=events))
    node.worker("fourth", "--pool", "prefork", "-c", "1")
    eventually(lambda: outcome("handled") + outcome("dead_lettered") >= events, 60, node.logs)

    page = samples(node.command("metrics"))
    published = Counter(inside.topics())
    assert page["petiole_events_total", topic, "success"] == published[topic] == events
    failed = events // 10
    assert (outcome("handled"), outcome("retried"), outcome("dead_lettered")) == (events - failed, failed, failed)
    assert published["error.dead_lettered"] == page["petiole_events_total", "error.dead_lettered", "success"] == failed
    assert page["petiole_event_critical_seconds_count", "one.handle"] == events - failed
    assert bus.redis.get("has_killed")
    # The killed run did not end; each failed delivery ran twice.
    runs = events + failed
    assert page["petiole_event_processing_seconds_count", topic] == runs
    eventually(lambda: scraped(port).get(("petiole_event_processing_seconds_count", topic)) == runs, 30, node.logs)


FAILING = """
import os
from petiole.events import Event
from petiole.tasks import Agent, RetryPolicy

agent = Agent("one")

@agent.on("input.*", retry=RetryPolicy(max_attempts=int(os.environ["ATTEMPTS"]), base=5, jitter=0))
def handle(event: Event) -> None:
    raise ValueError("not yet")
"""


FAILING_ONCE = """
import pathlib
from petiole.events import Event
from petiole.tasks import Agent, RetryPolicy

agent = Agent("one")

@agent.on("input.*", retry=RetryPolicy(max_attempts=1))
def handle(event: Event) -> None:
    if event.content.text == "first" and not pathlib.Path("failed").exists():
        pathlib.Path("failed").touch()
        raise ValueError("not yet")
"""


def test_the_wait_for_a_retry_does_not_count_as_lag_of_the_queue(node, inside, eventually, a_message):
    bus = a_bus(node.environment["PETIOLE_BROKER_URL"])
    node.environment.update({"PETIOLE_AGENTS": "agent_one", "ATTEMPTS": "2"})
    node.module("agent_one", FAILING)
    worker = node.worker("only", "-Q", "one")
    published = bus.publish.run(a_message()).event

    eventually(lambda: inside.delayed() == 1, 20, node.logs)
    worker.kill()
    worker.wait(20)
    node.worker("other", "-Q", "publish")
    eventually(lambda: inside.queue_depth("one") == 1, 30, node.logs)

    lag_s = samples(render_metrics(bus))["petiole_queue_lag_seconds", "one"]
    assert 0 <= lag_s < (bus.now() - published.timestamp).total_seconds() - 4.9


def test_a_replayed_delivery_lags_by_its_age_since_the_replay(node, inside, eventually, a_message):
    bus = a_bus(node.environment["PETIOLE_BROKER_URL"])
    node.environment.update({"PETIOLE_AGENTS": "agent_one", "ATTEMPTS": "1"})
    node.module("agent_one", FAILING)
    worker = node.worker("only", "-Q", "one")
    bus.publish.run(a_message())
    eventually(lambda: len(inside.dead_letters()) == 1, 20, node.logs)
    worker.kill()
    worker.wait(20)

    began = bus.now()
    node.command("dead-letters", "replay", "--all")

    lag_s = samples(render_metrics(bus))["petiole_queue_lag_seconds", "one"]
    assert 0 <= lag_s <= (bus.now() - began).total_seconds()
    eventually(lambda: samples(render_metrics(bus))["petiole_queue_lag_seconds", "one"] > lag_s, 10, node.logs)


def test_critical_time_begins_with_the_publish_or_the_replay_of_an_event_and_not_when_it_was_made(
    node, eventually, a_message
):
    """The event was made an hour ago, as one of `publish.delay` that is due after an hour, or an old dead letter."""
    bus = a_bus(node.environment["PETIOLE_BROKER_URL"])
    node.environment.update({"PETIOLE_AGENTS": "agent_one", "PETIOLE_METRICS": "true"})
    node.module("agent_one", FAILING_ONCE)
    node.worker("only")
    made_at = bus.now() - timedelta(hours=1)

    def critical(figure):
        return samples(render_metrics(bus)).get((f"petiole_event_critical_seconds_{figure}", "one.handle"), 0)

    bus.publish(a_message("first", timestamp=made_at))
    bus.publish(a_message("second", timestamp=made_at))
    eventually(lambda: critical("count") == 1, 30, node.logs)
    node.command("dead-letters", "replay", "--all")
    eventually(lambda: critical("count") == 2, 30, node.logs)
    node.command("replay", "one.handle", "--pattern", "input.*")
    eventually(lambda: critical("count") == 4, 30, node.logs)

    assert 0 <= critical("sum") < 600


@pytest.fixture
def bus():
    """Yield a bus of this process that counts under the seed's namespace."""
    with EventBus(settings=Settings(metrics=True, metrics_namespace="janus")) as bus:
        yield bus


def page_when(bus, condition):
    wait_until(lambda: condition(samples(render_metrics(bus))), 10, lambda: render_metrics(bus))
    return samples(render_metrics(bus))


def test_a_publish_that_raises_is_counted_as_an_error(bus, a_message):
    for _ in range(5):
        bus.publish(a_message())
    for _ in range(2):
        with pytest.raises(PetioleError):
            bus.publish(a_message().model_dump(mode="json") | {"content": None})
    with pytest.raises(PetioleError):
        bus.publish({"event_type": "made.up by a stranger", "stream_id": "s"})

    page = page_when(bus, lambda page: ("janus_events_total", "unknown", "error") in page)

    assert page["janus_events_total", "input.message.received", "success"] == 5
    assert page["janus_events_total", "input.message.received", "error"] == 2
    assert page["janus_events_total", "unknown", "error"] == 1


def test_processing_is_timed_in_the_worker_also_if_the_handler_raises(bus, a_message):
    agent = Agent("slow")

    @agent.on("input.*", retry=RetryPolicy(max_attempts=1))
    def handle(event):
        time.sleep(0.2)
        raise ValueError(event.event_id)

    bus.include(agent)
    bus.publish(a_message())

    name, topic = "janus_event_processing_seconds", "input.message.received"
    page = page_when(bus, lambda page: ("janus_deliveries_total", topic, "dead_lettered", "slow.handle") in page)

    assert page[f"{name}_count", topic] == 1
    assert 0.2 <= page[f"{name}_sum", topic] < 10
    assert page[f"{name}_bucket", topic, "0.1"] == 0
    assert page[f"{name}_bucket", topic, "+Inf"] == 1
    assert ("janus_event_critical_seconds_count", "slow.handle") not in page


def test_ten_thousand_event_types_do_not_multiply_the_labels(bus):
    for number in range(10_000):
        facts = dict.fromkeys(("event_id", "stream_id", "correlation_id"), "1")
        bus.instrumentation.emit(EventPublished(event_type=f"custom.type_{number}", subscriptions=(), **facts))
    page_when(bus, lambda page: sum(value for key, value in page.items() if key[0] == "janus_events_total") == 10_000)

    counted = {key[1]: value for key, value in samples(render_metrics(bus)).items() if key[0] == "janus_events_total"}

    assert len(counted) == MAX_NAMES + 1
    assert counted["other"] == 10_000 - MAX_NAMES
    assert sum(counted.values()) == 10_000


@pytest.mark.long
def test_ten_thousand_event_types_that_are_published_do_not_multiply_the_labels(clean_broker_url, eventually):
    app, registry = Celery("types", broker=clean_broker_url, set_as_current=False), EventRegistry()
    bus = EventBus(app, event_registry=registry, settings=Settings(metrics=True))
    for number in range(10_000):
        registry.declare(f"custom.type_{number}", {})
        bus.publish(CustomEvent(event_type=f"custom.type_{number}", stream_id="s", content=ParametersContent()))

    def counted():
        page = samples(render_metrics(bus))
        return {key[1]: value for key, value in page.items() if key[0] == "petiole_events_total"}

    eventually(lambda: sum(counted().values()) == 10_000, 60, lambda: str(sum(counted().values())))
    assert len(counted()) == MAX_NAMES + 1


def test_a_summary_has_the_same_figures_by_agent(bus, a_message):
    agent = Agent("team")

    @agent.on("input.*", retry=RetryPolicy(max_attempts=1))
    def handle(event):
        if event.content.text == "bad":
            raise ValueError(event.event_id)

    bus.include(agent)
    bus.publish_many([a_message("good"), a_message("good"), a_message("bad")])
    topic = "input.message.received"
    page_when(bus, lambda page: page.get(("janus_deliveries_total", topic, "handled", "team.handle")) == 2)
    page_when(bus, lambda page: ("janus_deliveries_total", topic, "dead_lettered", "team.handle") in page)

    report = collect_metrics(bus, 60).report

    assert (report.handled, report.failed) == ({"team": 2}, {"team": 1})
    assert report.events >= 3
    assert 0 < report.avg_latency_ms < 10_000


def test_the_seeds_namespace_gives_the_seeds_two_metrics_by_their_names_and_labels(bus, a_message):
    bus.publish(a_message())
    page_when(bus, lambda page: any(key[0] == "janus_events_total" for key in page))

    families = {family.name: family for family in text_string_to_metric_families(render_metrics(bus))}

    events, seconds = families["janus_events"], families["janus_event_processing_seconds"]
    assert (events.type, seconds.type) == ("counter", "histogram")
    assert {(sample.name, *sorted(sample.labels)) for sample in events.samples} == {
        ("janus_events_total", "event_type", "status")
    }
    assert all(name.startswith("janus_") for name in families)


def test_a_budget_is_shown_with_its_use_its_quota_and_its_pause(bus, monkeypatch):
    as_default(bus, monkeypatch)
    account = RateLimit("provider.main", requests=10, tokens=1_000, timeout=60)
    account.reserve(tokens=300).settle(120)
    account.reserve(tokens=200)
    RateLimit("provider.unlimited").reserve()
    account.pause(30)

    page = samples(render_metrics(bus))

    assert page["janus_rate_limit_used", "provider.main", "requests"] == 2
    assert page["janus_rate_limit_used", "provider.main", "tokens"] == 320
    assert page["janus_rate_limit_quota", "provider.main", "tokens"] == 1_000
    assert page["janus_rate_limit_paused", "provider.main"] == 1
    assert page["janus_rate_limit_paused", "provider.unlimited"] == 0
    assert ("janus_rate_limit_quota", "provider.unlimited", "tokens") not in page
    bus.store_clock.skip(200)
    assert samples(render_metrics(bus))["janus_rate_limit_used", "provider.main", "tokens"] == 0


def test_tokens_and_cost_are_counted_by_model_of_which_two_hundred_have_labels_of_their_own(bus):
    for number in range(MAX_NAMES + 50):
        used = ModelUsed(model=f"model {number}", input_tokens=10, output_tokens=2, cost_usd=0.25)
        bus.instrumentation.emit(used)
    bus.instrumentation.emit(ModelUsed(model="model 0", input_tokens=1, output_tokens=0))
    total = (MAX_NAMES + 50) * 12 + 1
    page = page_when(
        bus, lambda page: sum(value for key, value in page.items() if key[0] == "janus_model_tokens_total") == total
    )

    assert page["janus_model_tokens_total", "input", "model_0"] == 11
    assert page["janus_model_cost_usd_total", "model_0"] == 0.25
    assert page["janus_model_cost_usd_total", "other"] == 50 * 0.25
    assert sum(key[0] == "janus_model_cost_usd_total" for key in page) == MAX_NAMES + 1


@pytest.mark.parametrize(
    "bad",
    [
        {"cost_usd": math.nan},
        {"cost_usd": math.inf},
        {"cost_usd": -1.0},
        {"input_tokens": 10**400},
        {"model": "m\ud800"},
        {"model": "m\0x"},
    ],
    ids=["nan", "inf", "negative", "huge", "surrogate", "nul"],
)
def test_an_amount_or_a_name_that_cannot_be_counted_stops_no_other_count(bus, bad):
    usage = {"model": "m", "input_tokens": 1, "output_tokens": 2}
    bus.instrumentation.emit(ModelUsed(**usage | bad))
    page_when(bus, lambda page: any(key[:2] == ("janus_model_tokens_total", "output") for key in page))

    bus.instrumentation.emit(ModelUsed(model="other model", input_tokens=1, output_tokens=3))

    page = page_when(bus, lambda page: ("janus_model_tokens_total", "output", "other_model") in page)
    assert page["janus_model_tokens_total", "output", "other_model"] == 3
    assert all(0 <= value < 100 for value in page.values())


def test_the_counter_goes_on_after_an_error_of_any_kind(eventually, caplog):
    written: list[float] = []

    def write(amounts):
        if not written:
            written.append(0)
            raise RuntimeError("unforeseen")
        written.extend(amounts.values())

    counter = EventCounter(write, lambda: None)
    counter(ModelUsed(model="m", input_tokens=1, output_tokens=2))

    eventually(lambda: written == [0, 1, 2], 10)
    assert "event_counts.write_failed" in caplog.text


def test_without_the_setting_nothing_is_counted_and_no_record_is_built():
    with EventBus(Celery("quiet", set_as_current=False), settings=Settings()) as quiet:
        assert not quiet.instrumentation.wants(EventPublished)
        assert not quiet.instrumentation.wants(HandlerRan)
