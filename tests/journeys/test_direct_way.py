"""What users of Celery turn on while a worker runs is respected by deliveries that take the direct way until then."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import pytest

from petiole.events import MessageEvent
from petiole.events.ids import delivery_ids
from petiole.tasks import EventBus
from tests.support.apps import a_bus
from tests.support.inside import Inside

AGENT = """
import json
import logging
import os
import redis
from celery import current_app, current_task, signals
from celery.app import trace
from celery.exceptions import Reject
from petiole.events import Event, MessageEvent
from petiole.events.errors import RetryLater
from petiole.tasks import Agent, RetryPolicy

TURNED_ON_AT_START = os.environ.get("TURNED_ON_AT_START", "")
for name in ("celery.worker.strategy", "celery.app.trace"):
    logging.getLogger(name).setLevel(logging.INFO if TURNED_ON_AT_START == "logs" else logging.WARNING)

store = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"], socket_timeout=None)
agent = Agent("watched")
KINDS = (
    "plain", "hold", "fail", "retry", "defer", "reject", "revoked", "connect", "replace_tracer", "override_hook"
)
SIGNALS = ("task_prerun", "task_postrun", "task_success", "task_failure", "task_retry")


def note(name, **_):
    store.rpush("noted", name)


def connect():
    for name in SIGNALS:
        getattr(signals, name).connect(lambda name=name, **_: note(name), weak=False)


def replace_tracer():
    build_tracer = trace.build_tracer

    def build(name, task, *args, **options):
        traced = build_tracer(name, task, *args, **options)

        def run(*args, **options):
            if name == "watched.act":
                note("traced")
            return traced(*args, **options)

        return run

    trace.build_tracer = build


def override_hook():
    type(current_app.tasks["watched.act"]).before_start = lambda self, *_: note("before_start")


@signals.worker_process_init.connect
def start_child(**_):
    if TURNED_ON_AT_START == "signals of children":
        connect()


if TURNED_ON_AT_START == "tracer":
    replace_tracer()


@agent.on(*(f"message.{kind}" for kind in KINDS), retry=RetryPolicy(max_attempts=2, base=0.01, cap=0.01))
def act(event: Event) -> MessageEvent | None:
    kind, request = event.event_type.removeprefix("message."), current_task.request
    # Only a request of Celery's has the properties of a message.
    way = "celery" if request.properties else "direct"
    facts = {"kind": kind, "way": way, "task": current_task.name, "id": request.id, "pid": os.getpid()}
    attempt = store.rpush("handled", json.dumps(facts)) and store.incr(f"attempts {event.event_id}")
    match kind:
        case "hold":
            store.blpop("go", timeout=20)
        case "fail":
            raise RuntimeError("the disk is full")
        case "retry" if attempt == 1:
            raise RuntimeError("not yet")
        case "defer" if attempt == 1:
            raise RetryLater("the service rests", after_s=0.01)
        case "reject" if attempt == 1:
            raise Reject("not here", requeue=True)
        case "connect":
            connect()
        case "replace_tracer":
            replace_tracer()
        case "override_hook":
            override_hook()
    return event.caused(MessageEvent, event_type="message.done")
"""

SOLO = ("--pool", "solo")
PREFORK = ("--pool", "prefork", "-c", "1")
each_pool = pytest.mark.parametrize(
    "pool", [SOLO, pytest.param(PREFORK, marks=pytest.mark.long)], ids=lambda options: options[1]
)


class Run(NamedTuple):
    """One run of the handler, as it noted it."""

    kind: str
    way: str
    task: str
    id: str
    pid: int


class System:
    """A system with the agent `watched`, whose handler notes in which way its delivery came to it."""

    def __init__(self, node, client, inside: Inside, bus: EventBus, eventually: Callable[..., None]) -> None:
        self.node, self.store, self.inside, self.bus = node, client, inside, bus
        self.control: Any = bus.app.control
        self._eventually = eventually
        node.module("agent_watched", AGENT)
        node.environment["PETIOLE_AGENTS"] = "agent_watched"

    def start(self, *options: str, turned_on: str = "") -> None:
        """Start the worker."""
        self.node.environment["TURNED_ON_AT_START"] = turned_on
        # What replaces a part of Celery has to come before the worker loads it.
        self.node.worker("first", *options, forked=turned_on != "tracer")
        # A worker says that it is ready before it hears commands.
        self.wait(lambda: bool(self.control.ping(timeout=5, limit=1)))

    def publish(self, *kinds: str) -> list[str]:
        """Publish one event of each kind; return the ids of their deliveries."""
        events = [MessageEvent(event_type=f"message.{kind}", stream_id="s") for kind in kinds]
        publications = [self.bus.publish(event) for event in events]
        return [delivery_ids(each.event.event_id, ["watched.act"])[0] for each in publications]

    def runs(self) -> list[Run]:
        """List the runs of the handler."""
        return [Run(**json.loads(text)) for text in self.store.lrange("handled", 0, -1)]

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition."""
        self._eventually(condition, 15, lambda: (self.runs(), self.noted(), self.node.logs()[-3000:]))

    def handle(self, *kinds: str) -> list[Run]:
        """Publish events and wait until their deliveries have ended; return the runs."""
        before = len(self.runs())
        self.publish(*kinds)
        expected = sum(2 if kind in {"retry", "defer", "reject", "fail"} else 1 for kind in kinds)
        self.wait(lambda: len(self.runs()) >= before + expected and self.is_idle())
        return self.runs()[before:]

    def is_idle(self) -> bool:
        """Tell whether no delivery waits or runs."""
        return not (self.inside.queue_depth("watched") or self.inside.unacknowledged() or self.inside.delayed())

    def ways(self, *kinds: str) -> list[str]:
        """Publish events; return the ways of the runs."""
        return [run.way for run in self.handle(*kinds)]

    def noted(self) -> list[str]:
        """List what receivers, hooks and tracers have noted."""
        return list(self.store.lrange("noted", 0, -1))

    def inspect(self, command: str, *args: object) -> Any:
        """Ask the worker, as `celery inspect` does."""
        (answer,) = getattr(self.control.inspect(timeout=30, limit=1), command)(*args).values()
        return answer


@pytest.fixture
def system(node, client, inside, clean_broker_url, eventually) -> Iterator[System]:
    with a_bus(clean_broker_url) as bus:
        yield System(node, client, inside, bus, eventually)


@each_pool
def test_a_direct_delivery_is_the_current_task_and_is_shown_by_inspect(system, pool):
    system.start(*pool)
    (run,) = system.handle("plain")
    assert run[:3] == ("plain", "direct", "watched.act")
    if pool is SOLO:  # which answers nobody while a handler runs
        assert system.inspect("stats")["total"] == {"watched.act": 1}
        return

    held, waiting = system.publish("hold", "plain")
    system.wait(lambda: len(system.runs()) == 2)

    system.wait(lambda: [each["id"] for each in system.inspect("active")] == [held])
    (active,) = system.inspect("active")
    assert (active["name"], active["worker_pid"], active["acknowledged"]) == ("watched.act", run.pid, False)
    system.wait(lambda: held not in [each["id"] for each in system.inspect("reserved")])
    states = system.inspect("query_task", held, waiting)
    assert {name: state for name, (state, _) in states.items()} == {held: "active", waiting: "reserved"}
    system.store.rpush("go", "on")
    system.wait(system.is_idle)
    assert {run.way for run in system.runs()} == {"direct"}
    assert system.inspect("stats")["total"] == {"watched.act": 3}


@each_pool
def test_what_operators_turn_on_shows_at_the_next_delivery(system, pool):
    system.start(*pool)
    heard: list[tuple[str, str]] = []
    assert system.ways("plain") == ["direct"]

    system.control.enable_events(reply=True, timeout=30, limit=1)
    with system.bus.app.connection_for_read() as connection:
        note = {"*": lambda event: heard.append((event["type"], event.get("uuid", "")))}
        with system.bus.app.events.Receiver(connection, handlers=note).consumer_context() as (receiving, _, _):
            drain(receiving, heard)  # which subscribes
            (run,) = system.handle("plain")
            expected = [(f"task-{what}", run.id) for what in ("received", "started", "succeeded")]
            system.wait(lambda: set(expected) <= set(drain(receiving, heard)))
    system.control.disable_events(reply=True, timeout=30, limit=1)
    assert system.ways("plain") == ["direct"]

    system.control.rate_limit("watched.act", "100/s", reply=True, timeout=30, limit=1)
    assert system.ways("plain") == ["celery"]
    system.control.rate_limit("watched.act", 0, reply=True, timeout=30, limit=1)
    assert system.ways("plain") == ["direct"]


def drain(connection: Any, heard: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Receive what has been sent; return all that was heard."""
    with suppress(TimeoutError):
        connection.drain_events(timeout=0.5)
    return heard


@pytest.mark.long
@each_pool
def test_a_delivery_that_is_revoked_before_it_is_fetched_is_not_handled(system, pool):
    system.start(*pool)
    assert system.ways("plain") == ["direct"]
    event = MessageEvent(event_type="message.revoked", stream_id="s")
    (delivery,) = delivery_ids(event.event_id, ["watched.act"])

    system.control.revoke(delivery, reply=True, timeout=30, limit=1)
    system.bus.publish(event)
    system.handle("plain")

    assert [(run.kind, run.way) for run in system.runs()] == [("plain", "direct")] * 2
    assert system.inside.dead_letters() == []


def test_a_running_delivery_can_be_terminated(system):
    system.start(*PREFORK)
    (held,) = system.publish("hold")
    system.wait(lambda: [each["id"] for each in system.inspect("active")] == [held] and system.runs() != [])

    system.control.revoke(held, terminate=True, reply=True, timeout=30, limit=1)

    system.wait(system.is_idle)
    system.handle("plain")
    assert [(run.kind, run.way) for run in system.runs()] == [("hold", "direct"), ("plain", "direct")]


@pytest.mark.long
@each_pool
def test_a_time_limit_that_is_set_is_respected(system, pool):
    system.start(*pool)
    assert system.ways("plain") == ["direct"]

    system.control.time_limit("watched.act", hard=60, reply=True, timeout=30, limit=1)

    assert system.ways("plain") == ["celery"]


@pytest.mark.long
def test_the_time_limit_of_a_worker_ends_a_delivery(system):
    system.start(*PREFORK, "--time-limit", "1")
    system.publish("hold")

    system.wait(lambda: bool(system.inside.dead_letters()))

    (letter,) = system.inside.dead_letters()
    assert [each.error_type for each in letter.attempts] == ["TimeLimitExceeded"] * 2


@pytest.mark.long
def test_a_child_handles_no_more_deliveries_than_its_limit(system):
    system.start(*PREFORK, "--max-tasks-per-child", "1")

    first, second = system.handle("plain", "plain")

    assert first.pid != second.pid


@each_pool
def test_receivers_of_signals_that_a_handler_connects_are_called(system, pool):
    system.start(*pool)
    assert system.ways("connect") == ["direct"]

    assert system.ways("plain", "retry", "fail") == ["celery"] * 5

    # The broker knows the outcome before they are called.
    system.wait(lambda: system.noted().count("task_postrun") == 5)
    assert Counter(system.noted()) == {
        "task_prerun": 5,
        "task_postrun": 5,
        "task_success": 2,
        "task_retry": 2,
        "task_failure": 1,
    }


@pytest.mark.long
def test_receivers_of_signals_that_only_the_children_have_are_called(system):
    system.start(*PREFORK, turned_on="signals of children")

    system.handle("plain")

    system.wait(lambda: len(system.noted()) == 3)
    assert system.noted() == ["task_prerun", "task_success", "task_postrun"]


@pytest.mark.long
@each_pool
def test_a_tracer_that_was_replaced_runs_each_delivery(system, pool):
    system.start(*pool, turned_on="tracer")

    assert system.ways("plain") == ["celery"]

    assert system.noted() == ["traced"]


@pytest.mark.long
@each_pool
def test_what_a_handler_replaces_or_overrides_is_used_from_then_on(system, pool):
    system.start(*pool)
    assert system.ways("plain") == ["direct"]

    assert system.ways("override_hook") == ["direct"]
    assert system.ways("replace_tracer") == ["celery"]
    assert system.ways("plain") == ["celery"]


@pytest.mark.long
@each_pool
def test_a_worker_that_logs_its_tasks_logs_each_delivery(system, pool):
    system.start(*pool, turned_on="logs")

    (run,) = system.handle("plain")

    assert re.search(rf"Task watched.act\[{run.id}\] received", system.node.logs())
    assert re.search(rf"Task watched.act\[{run.id}\] succeeded", system.node.logs())


@each_pool
def test_both_ways_have_the_same_outcomes(system, pool):
    kinds = ("plain", "retry", "defer", "reject", "fail")
    system.start(*pool)
    outcomes = []
    for way in ("direct", "celery"):
        letters, topics = len(system.inside.dead_letters()), len(system.inside.topics())
        runs = [system.handle(kind) for kind in kinds]
        assert {run.way for each in runs for run in each} == {way}
        outcomes.append(
            (
                [len(each) for each in runs],
                [(each.error_type, len(each.attempts), each.cause) for each in system.inside.dead_letters()[letters:]],
                system.inside.topics()[topics:],
            )
        )
        system.control.rate_limit("watched.act", "1000/s", reply=True, timeout=30, limit=1)

    assert outcomes[0] == outcomes[1]
    assert outcomes[0][:2] == ([1, 2, 2, 2, 2], [("RuntimeError", 2, "failed")])
    assert outcomes[0][2].count("message.done") == 4
