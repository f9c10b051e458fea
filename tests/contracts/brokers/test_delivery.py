"""Whatever the broker, each event is handled once by each agent, whoever dies."""

from __future__ import annotations

import signal
from collections import Counter

from celery import Celery

from petiole.events import Event
from tests.contracts.brokers.system import _ALONE, AGENTS, System, an_event, counting
from tests.support.inside import Inside

WORKER = ("celery", "-A", "workers", "worker", "--pool", "solo", "-l", "INFO", *_ALONE)


FAILING = """
from petiole.events import Event, MessageEvent, ParametersContent, TextContent, TextMessageEvent
from petiole.tasks import Agent

agent = Agent("two")

@agent.on("input.*")
def fail(event: Event) -> None:
    raise RuntimeError("the disk is full")
"""


# Dies twice in the narrow places of settling: what was said is published and the delivery is not yet marked (only where
# these are two steps), and it is marked or has ended, and is not yet acknowledged.
DYING = """
import logging
import os
import signal
import redis
from celery.signals import task_postrun
from petiole.events import Event, MessageEvent, ParametersContent, TextContent, TextMessageEvent
from petiole.tasks import Agent
from petiole.tasks.stores.publications import Publications

state = redis.Redis.from_url(os.environ["PETIOLE_STATE_URL"])
agent = Agent("one")
# It tells how a delivery ended.
logging.getLogger("celery.app.trace").setLevel(logging.INFO)

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
    # Not when it is deferred, because the first worker's lease still lasts.
    if task.name == "one.say" and facts["state"] == "SUCCESS":
        die_once("unacknowledged")
"""


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
        assert worker.wait(timeout=60) == -signal.SIGKILL, system.node.logs()
    system.worker()

    # On Redis nothing is left to deliver again: what was said, and the end of the delivery, are one step.
    def is_over() -> bool:
        return "'duplicate'" in system.node.logs() if deaths == 2 else Inside(system.url).is_idle("one")

    eventually(is_over, 60, system.node.logs)
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
