"""The promises of delivery, on every broker: Redis (the embedded server) and RabbitMQ (Debian's package).

What holds on one of them only is in the table of docs/guarantees.md, and tested in tests/journeys and tests/faults.
"""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import kombu.pools
import psutil
import pytest
import redis
from celery import Celery

from petiole.events import Event, MessageEvent, ParametersContent, TextContent, TextMessageEvent
from petiole.events.subscriptions import Subscription
from petiole.tasks.broker.topology import RABBITMQ, broker_queues
from petiole.tasks.bus import EventBus
from petiole.tasks.publication import PublishTask
from petiole.tasks.publishing.commit import commit
from petiole.tasks.publishing.document import validate_event
from petiole.tasks.settings import Settings
from petiole.workers.process import embedded_broker
from tests.support.apps import a_bus

AGENTS = ("one", "two", "three")

# Without those of its steps that take time and matter only among many.
_ALONE = ("--without-mingle", "--without-gossip")
WORKER = ("celery", "-A", "workers", "worker", "--pool", "solo", "-l", "INFO", *_ALONE)

COUNTING = """
import os
import redis
from petiole.events import Event, MessageEvent, ParametersContent, TextContent, TextMessageEvent
from petiole.tasks import Agent

handled = redis.Redis.from_url(os.environ["PETIOLE_STATE_URL"])
agent = Agent("{name}")

@agent.on("input.*")
def count(event: Event) -> None:
    handled.rpush("handled", "{name} " + event.event_id)
"""

FAILING = """
from petiole.events import Event, MessageEvent, ParametersContent, TextContent, TextMessageEvent
from petiole.tasks import Agent

agent = Agent("two")

@agent.on("input.*")
def fail(event: Event) -> None:
    raise RuntimeError("the disk is full")
"""

ASKED = """
from petiole.events import Event, MessageEvent, ParametersContent, TextContent, TextMessageEvent
from petiole.tasks import Agent, Gathered

one = Agent("one")

@one.answers("double")
def double(number: int) -> int:
    return 2 * number

@one.answers("fail")
def fail() -> None:
    raise LookupError("nobody of that name")

@one.gather("message.price", "message.stock", timeout=20)
def offer(gathered: Gathered) -> MessageEvent:
    price, stock = (event.content.parameters["value"] for event in gathered.events)
    return MessageEvent(event_type="message.offer", stream_id="s", content={"parameters": {"value": price * stock}})
"""

ASKING = """
from concurrent.futures import ThreadPoolExecutor
from petiole.tasks import request

def double(number):
    return request("double", responder="one", number=number, timeout=20).get().value

with ThreadPoolExecutor(8) as threads:
    print(list(threads.map(double, range(20))))
failed = request("fail", responder="one", timeout=20).get()
print(failed.error_type, failed.error)
print(request("double", responder="nobody", number=1, timeout=20).get().error_type)
"""

# Dies twice in the narrow places of settling: what was said is published and the delivery is not yet marked (only where
# these are two steps), and it is marked and not yet acknowledged.
DYING = """
import os
import signal
import redis
from celery.signals import task_postrun
from petiole.events import Event, MessageEvent, ParametersContent, TextContent, TextMessageEvent
from petiole.tasks import Agent
from petiole.tasks.stores.publications import Publications

state = redis.Redis.from_url(os.environ["PETIOLE_STATE_URL"])
agent = Agent("one")

@agent.on("input.*")
def say(event: TextMessageEvent) -> list[MessageEvent]:
    state.incr("runs")
    return [event.caused(MessageEvent, event_type=f"message.said.{number}", content={}) for number in ("one", "two")]

def die_once(where: str) -> None:
    if state.set("died " + where, 1, nx=True):
        os.kill(os.getpid(), signal.SIGKILL)

publish = Publications.publish

def die_or_publish(publications, postings, version, settling=None, *more):
    if settling is not None and not postings:
        die_once("unmarked")
    return publish(publications, postings, version, settling, *more)

Publications.publish = die_or_publish

@task_postrun.connect
def die_or_acknowledge(task: object, **facts: object) -> None:
    if task.name == "one.say":
        die_once("unacknowledged")
"""


@dataclass
class System:
    """A broker with a state store beside it, a bus to publish with, and workers in processes of their own."""

    kind: str
    url: str
    state: redis.Redis
    node: Any  # tests/conftest.py's, which cannot be imported
    restart_broker: Callable[[], None]

    @cached_property
    def bus(self) -> EventBus:
        state_url = self.node.environment["PETIOLE_STATE_URL"]
        bus = a_bus(settings=Settings(state_url=state_url))
        bus.app.conf.update(broker_url=self.url, result_backend=state_url)
        return bus

    def agents(self, **sources: str) -> None:
        for name, source in sources.items():
            self.node.module(f"agent_{name}", source)
        self.node.environment["PETIOLE_AGENTS"] = ",".join(f"agent_{name}" for name in sources)

    def worker(self, name: str = "worker", *options: str) -> subprocess.Popen[bytes]:
        """Start a worker, and wait until it consumes."""
        process: subprocess.Popen[bytes] = self.node.worker(name, *_ALONE, *options)
        return process

    def subscribe(self, *names: str) -> None:
        """Make subscriptions known, as workers do when they start."""
        pairs = [name.split(".") for name in names]
        self.bus.stores.directory.register(
            Subscription(agent=agent, function=function, patterns=("input.*",)) for agent, function in pairs
        )

    def publish(self, *events: Event) -> None:
        commit(self.bus, [validate_event(each, self.bus.event_registry, 10_000) for each in events])

    def publish_later(self, event: Event) -> None:
        self.bus.app.tasks[PublishTask.name].delay(event)

    def handled(self) -> list[tuple[str, ...]]:
        """List who handled which event, in order."""
        return [tuple(str(entry).split()) for entry in self.state.lrange("handled", 0, -1)]

    def topics(self) -> Counter[str]:
        """Count what was said by topic, but for what system and agents say of themselves."""
        told = (recorded.topic for recorded in self.bus.stores.history.read_after())
        return Counter(topic for topic in told if topic.split(".")[0] not in {"system", "agent"})


@pytest.fixture(params=["redis", "amqp"])
def system(request: pytest.FixtureRequest, node: Any, clean_broker_url: str, tmp_path: Path) -> Iterator[System]:
    home = tmp_path / "broker"
    if request.param == "redis":
        # Broker and state store are one server, as they are by default.
        url = state_url = embedded_broker.start_broker(home).url
        restart = partial(restart_redis, home)
    else:
        url, state_url = request.getfixturevalue("rabbit_url"), clean_broker_url
        # Ended gently: what 3.10 loses when it is killed early is in docs/guarantees.md.
        restart = request.getfixturevalue("rabbit").restart
        delete_queues(url)
    node.environment.update(PETIOLE_BROKER_URL=url, PETIOLE_STATE_URL=state_url, PETIOLE_VISIBILITY_TIMEOUT_S="1")
    state = redis.Redis.from_url(state_url, decode_responses=True)
    system = System(request.param, url, state, node, restart)
    yield system
    for worker in node.processes:
        worker.kill()
        worker.wait(timeout=10)
    # Kombu's pools belong to no bus: the next one would find connections that declared its queues already.
    kombu.pools.reset()
    embedded_broker.stop_broker(home)


def restart_redis(home: Path) -> None:
    (pid,) = [int(found.read_text()) for found in home.rglob("valkey.pid")]
    server = psutil.Process(pid)
    server.kill()
    server.wait(timeout=10)
    embedded_broker.start_broker(home)


def delete_queues(url: str) -> None:
    with kombu.Connection(url) as connection:
        channel: Any = connection.channel()
        for queue in ("publish", *AGENTS):
            for name in broker_queues(queue, RABBITMQ):
                channel.queue_delete(name)


def counting(*names: str) -> dict[str, str]:
    return {name: COUNTING.format(name=name) for name in names}


def an_event(text: str = "hello", priority: int = 5) -> TextMessageEvent:
    return TextMessageEvent(stream_id="s", content=TextContent(text=text), priority=priority)


def a_part(topic: str, value: int) -> MessageEvent:
    content = ParametersContent(parameters={"value": value})
    return MessageEvent(event_type=topic, stream_id="s", correlation_id="a-flow", content=content)


def test_100_events_reach_3_agents_once_each_over_2_workers(system, eventually):
    system.agents(**counting(*AGENTS))
    system.worker("first")
    system.worker("second")

    system.publish(*(an_event(str(number)) for number in range(100)))

    eventually(lambda: len(system.handled()) >= 300, 20, system.node.logs)
    assert Counter(Counter(system.handled()).values()) == {1: 300}
    assert Counter(agent for agent, _ in system.handled()) == dict.fromkeys(AGENTS, 100)


def test_events_wait_for_an_agent_whose_worker_is_gone(system, eventually):
    system.agents(**counting("one"))
    worker = system.worker("first")
    worker.kill()
    worker.wait(timeout=20)
    system.publish(*(an_event(str(number)) for number in range(20)))
    assert system.handled() == []

    system.worker("second")

    eventually(lambda: len(system.handled()) == 20, 20, system.node.logs)


def test_events_wait_for_a_worker_that_never_ran(system, eventually):
    system.subscribe("one.count", "two.count")
    published, left, foreign = an_event("published"), an_event("left for a worker", priority=9), an_event("foreign")
    system.publish(published)
    system.publish_later(left)
    publish_with_plain_celery(system, foreign)
    system.agents(**counting("one", "two"))

    system.worker()

    expected = {(agent, event.event_id) for agent in ("one", "two") for event in (published, left, foreign)}
    eventually(lambda: set(system.handled()) == expected, 20, system.node.logs)
    assert len(system.handled()) == 6


def publish_with_plain_celery(system: System, event: Event) -> None:
    client = Celery(broker=system.url, set_as_current=False)
    # On RabbitMQ all programs have to declare a queue alike; README.md says so.
    client.conf.update(task_create_missing_queue_type="quorum", task_create_missing_queue_exchange_type="topic")
    client.send_task("petiole.publish", args=[event.model_dump(mode="json")], queue="publish")
    client.close()


def test_an_event_published_again_is_handled_once(system, eventually):
    system.subscribe("one.count")
    again, last = an_event("again"), an_event("last")
    for _ in range(3):
        system.publish(again)
        # As a publisher leaves it that died after the last message.
        system.state.set(system.bus.stores.history._keys.publication(again.event_id), "started")
    for _ in range(3):
        system.publish_later(again)
    system.publish(last)
    system.agents(**counting("one"))

    system.worker()

    eventually(lambda: ("one", last.event_id) in system.handled(), 20, system.node.logs)
    assert sorted(system.handled()) == sorted([("one", again.event_id), ("one", last.event_id)])
    assert system.topics() == {"input.message.received": 2}


def test_what_a_handler_says_is_said_once_though_its_worker_dies(system, eventually):
    system.agents(one=DYING)
    deaths = 2 if system.kind == "amqp" else 1
    system.subscribe("one.say")
    system.publish(an_event())

    for number in range(deaths):
        # Not awaited: it may die before it says that it is ready.
        worker = system.node.start(*WORKER, "-n", f"{number}@%h")
        assert worker.wait(timeout=20) == -signal.SIGKILL, system.node.logs()
    system.worker()

    eventually(lambda: "'duplicate'" in system.node.logs(), 20, system.node.logs)
    assert system.topics() == {"input.message.received": 1, "message.said.one": 1, "message.said.two": 1}
    assert int(system.state.get("runs")) == deaths


def test_a_failing_handler_is_a_dead_letter_and_disturbs_nobody(system, eventually):
    system.agents(**counting("one") | {"two": FAILING})
    worker = system.worker()

    system.publish(an_event(), an_event())

    eventually(lambda: len(system.bus.stores.dead_letters.all()) == 2, 45, system.node.logs)
    letters = system.bus.stores.dead_letters.all()
    assert {(each.subscription, each.cause, each.error) for each in letters} == {
        ("two.fail", "failed", "the disk is full")
    }
    eventually(lambda: len(system.handled()) == 2, 20, system.node.logs)
    assert worker.poll() is None


def test_an_urgent_event_is_among_the_first_two(system, eventually):
    system.subscribe("one.count")
    system.publish(*(an_event(str(number), priority=1) for number in range(20)))
    urgent = an_event("urgent", priority=9)
    system.publish(urgent)
    system.agents(**counting("one"))

    system.worker("slow", "-Q", "one", "--concurrency", "1", "--prefetch-multiplier", "1")

    eventually(lambda: len(system.handled()) == 21, 20, system.node.logs)
    assert ("one", urgent.event_id) in system.handled()[:2]


def test_json_and_nothing_else_is_read(system, eventually):
    system.agents(**counting("one"))
    worker = system.worker()
    event = an_event()

    with kombu.Connection(system.url) as connection:
        connection.Producer(serializer="pickle").publish(
            ((event.model_dump(mode="json"),), {}, {}),
            exchange="",
            routing_key="one",
            headers={"task": "one.count", "id": "an-id", "lang": "py"},
        )
    system.publish(event)

    eventually(lambda: system.handled() == [("one", event.event_id)], 20, system.node.logs)
    assert worker.poll() is None
    assert "Refusing to deserialize" in system.node.logs() or "ContentDisallowed" in system.node.logs()


def test_requests_are_answered_each_with_its_own_answer_or_the_reason_why_not(system):
    system.agents(one=ASKED)
    system.worker()

    answers, failure, nobody = system.node.run(ASKING).splitlines()

    assert answers == str([2 * number for number in range(20)])
    assert failure == "LookupError nobody of that name"
    assert nobody == "responder_not_found"


def test_what_is_gathered_is_called_for_once_with_all_of_it(system, eventually):
    system.agents(one=ASKED)
    system.worker()

    for topic, value in (("message.stock", 3), ("message.price", 7), ("message.stock", 3)):
        system.publish(a_part(topic, value))
    system.publish(an_event("after"))

    eventually(lambda: system.topics()["aggregation.completed"] == 1, 20, system.node.logs)
    eventually(lambda: system.topics()["message.offer"] == 1, 20, system.node.logs)
    (offer,) = [each for each in system.bus.stores.history.read_after() if each.topic == "message.offer"]
    assert offer.document["content"]["parameters"] == {"value": 21}


def test_a_broker_that_goes_and_comes_back_has_lost_nothing_that_was_acknowledged(system, eventually):
    system.subscribe("two.count")
    system.agents(**counting("one"))
    worker = system.worker("first")
    waiting = [an_event(str(number)) for number in range(20)]
    system.publish(*waiting)
    eventually(lambda: len(system.handled()) == 20, 20, system.node.logs)

    system.restart_broker()
    system.publish(after := an_event("after"))

    eventually(lambda: ("one", after.event_id) in system.handled(), 20, system.node.logs)
    assert worker.poll() is None
    system.agents(**counting("two"))
    system.worker("second")
    # What was being settled as the broker went may be run once more; nothing is lost.
    expected = {(agent, event.event_id) for agent in ("one", "two") for event in (*waiting, after)}
    eventually(lambda: set(system.handled()) == expected, 20, system.node.logs)
