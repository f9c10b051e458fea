"""Lifecycle: what is told of the system and its agents, while real workers start, end, die, and are told to rest."""

from __future__ import annotations

import json
import signal
import time
from typing import Any

import kombu
import pytest

from tests.support.inside import Inside, delete_queues
from tests.support.polling import PATIENCE

AGENTS = """
import time
from petiole.events import Event, MessageEvent
from petiole.tasks import Agent, Context

memory, tools = Agent("memory"), Agent("tools")

@memory.on("input.*")
def keep(event: Event) -> MessageEvent:
    if event.content.text == "slow":
        time.sleep(2)
    return event.caused(MessageEvent, event_type="message.kept", content={})

@tools.on("input.*")
def use(event: Event) -> None: ...

@memory.on_start
def opened() -> None:
    print("memory is open", flush=True)

@memory.on_stop
def closed() -> None:
    print("memory is closed", flush=True)
"""

PUBLISH = """
from petiole.events import TextContent, TextMessageEvent
from petiole.tasks import publish
for text in {texts!r}:
    publish(TextMessageEvent(stream_id="s", content=TextContent(text=text)))
"""

LIFE = ["agent.created", "agent.starting", "agent.started", "agent.stopping", "agent.stopped"]
SYSTEM = [
    "system.created",
    "system.features.registered",
    "system.providers.registered",
    "system.world.registered",
    "system.builtin_agents.registered",
    "system.user_agents.registered",
    "system.starting",
    "system.started",
    "system.stopping",
    "system.stopped",
]


class Told:
    """What the history tells."""

    def __init__(self, inside: Inside) -> None:
        self.inside = inside

    def types(self, prefix: str = "") -> list[str]:
        return [topic for topic in self.inside.topics() if topic.startswith(prefix)]

    def of_agent(self, agent: str) -> list[str]:
        events = [each for each in self.inside.history() if each["event_type"] in LIFE]
        return [each["event_type"] for each in events if each["content"]["agent"] == agent]

    def last(self, event_type: str) -> dict[str, Any]:
        return self.inside.history(event_type)[-1]


@pytest.fixture
def told(inside):
    return Told(inside)


@pytest.fixture
def system(node):
    node.module("house", AGENTS)
    node.environment["PETIOLE_AGENTS"] = "house"
    node.environment["PETIOLE_HEARTBEAT_TIMEOUT_S"] = "2"
    return node


def stop(process) -> int:
    process.send_signal(signal.SIGTERM)
    return int(process.wait(timeout=20))


@pytest.mark.parametrize(
    "pool", ["prefork", *(pytest.param(pool, marks=pytest.mark.long) for pool in ("solo", "threads"))]
)
def test_a_worker_that_starts_and_ends_tells_each_step_once_and_in_order(system, told, eventually, pool):
    worker = system.start("celery", "-A", "workers", "worker", "-n", "w@%h", "-P", pool, "-c", "2", "--without-mingle")
    eventually(lambda: "system.started" in told.types(), 30, system.logs)

    began = time.monotonic()
    stop(worker)

    assert time.monotonic() - began < 1.5 * PATIENCE
    assert told.types("system.") == SYSTEM
    assert told.of_agent("memory") == told.of_agent("tools") == LIFE
    assert told.last("agent.stopped")["content"]["reason"] == "stopped"
    before = told.last("system.stopped")["content"]["last_event_time"]
    assert before == told.last("system.stopping")["timestamp"]
    children = {"solo": 1, "threads": 1, "prefork": 2}[pool]
    assert system.logs().count("memory is open") == system.logs().count("memory is closed") == children


@pytest.mark.long
def test_a_worker_that_is_told_to_end_finishes_before_its_agents_are_stopped(system, told, eventually):
    worker = system.worker("w", "-P", "prefork", "-c", "2")
    system.run(PUBLISH.format(texts=["slow"]))
    eventually(lambda: told.inside.unacknowledged() > 0, 5, system.logs)

    stop(worker)

    types = told.types()
    assert types.index("agent.stopping") < types.index("message.kept") < types.index("agent.stopped")
    assert types[-1] == "system.stopped"


def test_two_workers_of_an_agent_are_one_life(system, told, eventually):
    first, second = system.worker("a"), system.worker("b")
    stop(first)
    assert told.of_agent("memory") == LIFE[:3]

    stop(second)

    assert told.of_agent("memory") == LIFE
    assert told.types("system.") == SYSTEM


def test_the_last_worker_of_an_agent_is_known_to_be_lost_within_the_heartbeat_limit(system, told, eventually):
    system.worker("tools", "-Q", "tools")
    worker = system.worker("memory", "-Q", "memory")
    eventually(lambda: told.of_agent("memory") == LIFE[:3], 5, system.logs)

    worker.kill()

    eventually(lambda: "agent.stopped" in told.types(), 2 + 3, system.logs)
    assert told.of_agent("memory") == [*LIFE[:3], "agent.stopped"]
    stopped = told.last("agent.stopped")["content"]
    assert (stopped["reason"], stopped["worker"].partition("@")[0]) == ("lost", "memory")
    assert told.of_agent("tools") == LIFE[:3]
    system.worker("again", "-Q", "memory")
    eventually(lambda: told.of_agent("memory") == [*LIFE[:3], "agent.stopped", *LIFE[:3]], 5, system.logs)


@pytest.mark.long
def test_what_was_killed_to_the_last_worker_is_told_by_the_next_one(system, told, eventually):
    worker = system.worker("w")
    worker.kill()
    worker.wait()
    eventually(lambda: not told.inside.is_heard(), 6)

    system.worker("next")

    eventually(lambda: told.of_agent("memory") == [*LIFE[:3], "agent.stopped", *LIFE[:3]], 5, system.logs)
    assert told.types("system.") == [*SYSTEM, *SYSTEM[:8]]


def test_a_paused_agent_takes_nothing_keeps_its_queue_and_goes_on_when_resumed(system, told, eventually):
    system.worker("a")

    system.command("agents", "pause", "memory")
    system.run(PUBLISH.format(texts=[str(number) for number in range(20)]))
    eventually(lambda: told.inside.queue_depth("tools") == 0, 5, system.logs)
    late = system.worker("late")

    assert told.inside.queue_depth("memory") == 20, system.logs()
    assert told.types("message.kept") == []
    assert told.of_agent("memory") == LIFE[:3], "it rests, and lives"
    stop(late)

    system.command("agents", "resume", "memory")

    eventually(lambda: len(told.types("message.kept")) == 20, 10, system.logs)
    assert told.of_agent("memory") == LIFE[:3]


@pytest.mark.long
def test_a_stopped_agent_ends_its_life_and_begins_another_when_resumed(system, told, eventually):
    system.worker("a")

    system.command("agents", "stop", "memory")

    assert told.of_agent("memory") == LIFE
    system.run(PUBLISH.format(texts=["Hello"]))
    system.worker("late")
    assert (told.inside.queue_depth("memory"), told.of_agent("memory"), told.of_agent("tools")) == (1, LIFE, LIFE[:3])
    (state,) = [each for each in json.loads(system.command("agents", "--json")) if each["agent"] == "memory"]
    assert (state["state"], state["waiting"]) == ("stopped", 1)

    system.command("agents", "resume", "memory")

    eventually(lambda: told.types("message.kept") == ["message.kept"], 10, system.logs)
    assert told.of_agent("memory") == [*LIFE, *LIFE[:3]]


@pytest.mark.long
def test_on_rabbitmq_lives_are_told_agents_rest_and_a_critical_error_ends_all(system, told, rabbit_url, eventually):
    system.module("house", AGENTS + "\nfrom petiole.workers.agents.supervisor import agent as supervisor\n")
    system.environment.update(PETIOLE_BROKER_URL=rabbit_url, PETIOLE_STATE_URL=system.environment["PETIOLE_BROKER_URL"])
    with kombu.Connection(rabbit_url) as connection:
        delete_queues(connection, "memory", "tools", "supervisor", "publish")
        channel: Any = connection.channel()
        worker = system.worker("w")

        system.command("agents", "pause", "memory")
        system.run(PUBLISH.format(texts=["Hello"]))
        eventually(lambda: channel.queue_declare("memory", passive=True).message_count == 1, 5, system.logs)
        system.command("agents", "resume", "memory")
        eventually(lambda: told.types("message.kept") == ["message.kept"], 10, system.logs)
        system.environment["PETIOLE_PUBLISHER"] = "operator"
        system.run("from tasks import report; report('the house burns', 'critical')")

        assert worker.wait(timeout=15) == 0, system.logs()
        assert told.of_agent("memory") == LIFE
        assert told.types("system.") == SYSTEM
        assert told.types()[-1] == "system.stopped"
