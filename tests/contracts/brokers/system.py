"""A system on Redis and on RabbitMQ, and its agents."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import kombu.pools
import psutil
import redis

from petiole.events import Event, TextContent, TextMessageEvent
from petiole.events.subscriptions import Subscription
from petiole.tasks import EventBus
from petiole.tasks.broker.topology import RABBITMQ, broker_queues
from petiole.tasks.publication import PublishTask
from petiole.workers.process import embedded_broker
from tests.support.apps import a_bus, publish_all_once, subscribe

AGENTS = ("one", "two", "three")


# Without those of its steps that take time and matter only among many.
_ALONE = ("--without-mingle", "--without-gossip")


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
        return a_bus(self.url, state_url=state_url)

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
        subscribe(
            self.bus,
            *(Subscription(agent=agent, function=function, patterns=("input.*",)) for agent, function in pairs),
        )

    def publish(self, *events: Event) -> None:
        publish_all_once(self.bus, events)

    def publish_later(self, event: Event) -> None:
        self.bus.app.tasks[PublishTask.name].delay(event)

    def handled(self) -> list[tuple[str, ...]]:
        """List who handled which event, in order."""
        return [tuple(str(entry).split()) for entry in self.state.lrange("handled", 0, -1)]

    def topics(self) -> Counter[str]:
        """Count what was said by topic, but for what system and agents say of themselves."""
        told = (recorded.topic for recorded in self.bus.stores.history.read_after())
        return Counter(topic for topic in told if topic.split(".")[0] not in {"system", "agent"})


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
