"""A state store that loses what was written once, at a start: living workers write it again."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from petiole.events import Event, MessageEvent
from petiole.tasks import Agent
from tests.support.apps import a_bus, publish_once, subscribe
from tests.support.inside import Inside
from tests.support.polling import wait_until

BOTH = ("one.hear", "two.listen")

MODULE = """
import os
from pathlib import Path
from petiole.tasks import Agent

one, two = Agent("one"), Agent("two")

@one.on("message.*")
def hear(event): Path(os.environ["RUNS"]).open("a").write(f"one {event.stream_id}\\n")

@two.on("message.*")
def listen(event): Path(os.environ["RUNS"]).open("a").write(f"two {event.stream_id}\\n")
"""


@pytest.mark.parametrize(
    ("pool", "lost"),
    [
        pytest.param("threads", None, marks=pytest.mark.long),
        ("prefork", None),
        ("threads", ("directory",)),
        pytest.param("threads", ("directory", "directory:version", "directory:changes"), marks=pytest.mark.long),
    ],
    ids=["everything", "everything, in prefork", "the subscriptions", "the directory"],
)
def test_a_lost_directory_is_there_again_within_seconds(system, server, pool, lost):
    system.module("two_agents", MODULE)
    system.worker("both", "--pool", pool, "-c", "2", "-Q", "one,two,publish")
    bus, inside = a_bus(server.url), Inside(server.url)
    assert publish_once(bus, a_message("before")).subscriptions == BOTH

    inside.lose(*lost) if lost else inside.client.flushall()

    wait_until(lambda: tuple(inside.subscriptions()) == BOTH, 10, system.logs)
    assert publish_once(bus, a_message("after")).subscriptions == BOTH
    assert publish_once(a_bus(server.url), a_message("new")).subscriptions == BOTH
    bus.publish.delay(a_message("delayed"))
    expected = {f"{agent} {stream}" for agent in ("one", "two") for stream in ("after", "new", "delayed")}
    wait_until(lambda: expected <= set(runs(system)), 15, system.logs)
    assert len(bus.app.control.inspect(timeout=5).ping() or {}) == 1
    wait_until(inside.is_started, 10, system.logs)


@pytest.mark.parametrize(
    "registered_before", [(), ("new.hear",), ("one.hear",)], ids=["nobody", "another worker", "one of the workers"]
)
def test_a_publisher_that_knew_the_subscriptions_sends_to_them_at_once_after_the_loss(server, registered_before):
    one, two, new = Agent("one"), Agent("two"), Agent("new")
    for agent, name in ((one, "hear"), (two, "listen"), (new, "hear")):
        agent.on("message.*")(_named(name))
    bus = a_bus(server.url, one, two)
    assert publish_once(bus, a_message("before")).subscriptions == BOTH

    Inside(server.url).client.flushall()
    if registered_before:
        subscribe(a_bus(server.url), one if registered_before == ("one.hear",) else new)

    expected = tuple(sorted({*BOTH, *registered_before}))
    assert publish_once(bus, a_message("after")).subscriptions == expected
    assert publish_once(a_bus(server.url), a_message("from a new publisher")).subscriptions == expected


def test_a_publisher_restores_no_subscription_that_was_withdrawn(server):
    one = Agent("one")
    one.on("message.*")(_named("hear"))
    bus, inside = a_bus(server.url, one), Inside(server.url)
    assert publish_once(bus, a_message("before")).subscriptions == ("one.hear",)
    inside.withdraw("one.hear")

    inside.lose("directory:changes")

    assert publish_once(bus, a_message("after")).subscriptions == ()
    inside.client.flushall()
    assert publish_once(bus, a_message("later")).subscriptions == ()


def _named(name: str) -> Any:
    def hear(event: Event) -> None: ...

    hear.__name__ = hear.__qualname__ = name
    return hear


def test_one_lost_subscription_is_there_again(system, server):
    system.module("two_agents", MODULE)
    system.worker("both", "--pool", "threads", "-Q", "one,two")
    bus, inside = a_bus(server.url), Inside(server.url)
    assert publish_once(bus, a_message("before")).subscriptions == BOTH

    inside.lose_subscription("two.listen")

    wait_until(lambda: tuple(inside.subscriptions()) == BOTH, 10, system.logs)
    assert publish_once(a_bus(server.url), a_message("after")).subscriptions == BOTH


def a_message(stream: str) -> MessageEvent:
    return MessageEvent.model_validate({"event_type": "message.said", "stream_id": stream, "content": {}})


def runs(system: Any) -> list[str]:
    file = system.home / "runs"
    return file.read_text().splitlines() if file.exists() else []


def test_an_older_copy_of_the_state_is_brought_up_to_date(system, server):
    system.module("two_agents", MODULE)
    client = redis.Redis.from_url(server.url)
    system.worker("first", "--pool", "threads", "-Q", "one")
    older = {name: content for name in client.keys("*") if (content := client.dump(name))}
    system.worker("second", "--pool", "threads", "-Q", "two")
    bus = a_bus(server.url)
    assert publish_once(bus, a_message("before")).subscriptions == BOTH

    with client.pipeline(transaction=True) as pipeline:
        pipeline.flushall()
        for name, content in older.items():
            pipeline.restore(name, 0, content)
        pipeline.execute()

    inside = Inside(server.url)
    wait_until(lambda: inside.subscriptions() == list(BOTH), 10, system.logs)
    assert publish_once(bus, a_message("after")).subscriptions == BOTH
    wait_until(lambda: inside.agents() == {"one": "started", "two": "started"}, 30, system.logs)
    wait_until(inside.is_started, 15, system.logs)


def test_a_subscription_that_was_withdrawn_stays_so_while_its_worker_lives(system, server):
    system.module("two_agents", MODULE)
    system.worker("both", "--pool", "threads", "-Q", "one,two")
    inside = Inside(server.url)
    inside.withdraw("two.listen")

    inside.lose_subscription("one.hear")

    wait_until(lambda: inside.subscriptions() == ["one.hear"], 10, system.logs)
    system.worker("next", "--pool", "threads", "-Q", "one,two")
    assert tuple(inside.subscriptions()) == BOTH


def test_lost_records_of_the_cluster_are_written_again_and_a_paused_agent_stays_paused(system, server):
    system.module("two_agents", MODULE)
    system.worker("both", "--pool", "threads", "-Q", "one,two")
    inside = Inside(server.url)
    inside.pause("two")
    wait_until(lambda: "agent.paused" in system.logs(), 10, system.logs)

    for names in (("cluster",), ("cluster:version",), ("cluster", "cluster:version")):
        inside.lose(*names)

        wait_until(inside.is_started, 10, system.logs)
        assert inside.paused() == ["two"]


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_evicts_keys_is_refused_at_start_in_one_sentence(system, server, policy):
    with server.client() as client:
        client.config_set("maxmemory-policy", policy)

    worker = system.start("celery", "-A", "workers", "worker", "--pool", "solo")

    assert worker.wait(30) != 0
    assert f"maxmemory-policy {policy}" in system.logs()
    assert "set maxmemory-policy noeviction" in system.logs()
    assert "Traceback" not in system.logs()
