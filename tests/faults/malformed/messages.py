"""Messages as Celery writes them, to be spoiled, and a worker whose queue they are put into."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import cached_property
from typing import Any
from uuid import uuid4

import psutil
import redis

from petiole.events import TextContent, TextMessageEvent
from petiole.events.dead_letter import DeadLetter
from tests.support.apps import a_bus
from tests.support.inside import Inside, drain_undecodable

AGENT = """
import os
import redis
from petiole.events import Event
from petiole.tasks import Agent

store = redis.Redis.from_url(os.environ["HANDLED"])
agent = Agent("one")

@agent.on("input.*")
def count(event: Event) -> None:
    store.rpush("handled", event.event_id)
"""

Make = Callable[[], bytes]


class System:
    """A worker with the agent `one`, a queue to write anything into, and what has become of it."""

    def __init__(self, node: Any, url: str, state_url: str, eventually: Any) -> None:
        self.node = node
        self.store = redis.Redis.from_url(state_url)
        self.eventually = eventually
        self.bus = a_bus(url, state_url=state_url)
        self.inside = Inside(self.bus)
        node.module("agent_one", AGENT)
        node.environment.update(PETIOLE_AGENTS="agent_one", HANDLED=state_url)

    def start(self, *pool: str) -> psutil.Process:
        """Start a worker that only has warnings to say."""
        process = self.node.worker("wire", *(pool or ("--pool", "solo")), "--without-mingle", "--without-gossip")
        return psutil.Process(process.pid)

    def push(self, *texts: bytes) -> None:
        self.store.lpush("one", *texts)

    def letters(self) -> list[DeadLetter]:
        return self.inside.dead_letters()

    def handled(self) -> int:
        return int(self.store.llen("handled"))

    def drain(self) -> int:
        return drain_undecodable(self.bus, self.channel)

    @cached_property
    def channel(self) -> Any:
        """A channel of our transport's, as a consumer has one."""
        return self.bus.app.connection_for_write().default_channel

    def is_settled(self) -> bool:
        """Tell whether nothing waits, nothing is held, and nothing is left to drain."""
        return self.inside.is_idle("one") and self.drain() == 0

    def await_settled(self, timeout_s: float = 30) -> None:
        self.eventually(self.is_settled, timeout_s, self.explain)

    def explain(self) -> str:
        """Tell what waits, what is held, and the last thing that could not be written."""
        held = [entry[:1_500] for entry in self.inside.unacknowledged_messages()]
        logs = self.node.logs()
        unwritten = logs[logs.rfind("dead_letter.write_failed") :][:6_000] if "dead_letter.write_failed" in logs else ""
        return f"held {held}\n{unwritten}\n{logs[-1_000:]}"


def an_event(**fields: object) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        TextMessageEvent(stream_id="s", content=TextContent(text="hello")).model_dump_json()
    )
    return document | fields


def body_of(*args: object) -> bytes:
    embedded = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    return json.dumps([list(args), {}, embedded]).encode()


def a_message(of: bytes | None = None, *, task: str = "one.count", **parts: object) -> dict[str, Any]:
    """Make a message as Celery puts it in a Redis list, with an id of its own."""
    delivery_id = str(uuid4())
    return {
        "body": base64.b64encode(body_of(an_event()) if of is None else of).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": task,
            "id": delivery_id,
            "shadow": None,
            "eta": None,
            "expires": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": delivery_id,
            "parent_id": None,
            "argsrepr": "input.message.received",
            "kwargsrepr": "",
            "origin": "gen1@host",
            "ignore_result": True,
            "stamped_headers": None,
            "stamps": {},
        },
        "properties": {
            "correlation_id": delivery_id,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "one"},
            "priority": 4,
            "body_encoding": "base64",
            "delivery_tag": str(uuid4()),
        },
    } | parts


def bare(correlation_id: str, **parts: object) -> bytes:
    """Write a message of which nothing can be read but its properties."""
    message = a_message()
    message["properties"]["correlation_id"] = correlation_id
    return written({"properties": message["properties"]} | parts)


def written(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode()


def with_part(name: str, value: object, of: bytes | None = None) -> bytes:
    return written(a_message(of) | {name: value})


def compressed(content_type: str, body: bytes) -> bytes:
    """Write a message whose body is compressed."""
    message = a_message(body)
    message["headers"]["compression"] = content_type
    return written(message)


def with_header(name: str, value: object) -> bytes:
    message = a_message()
    message["headers"][name] = value
    return written(message)


def with_property(name: str, value: object) -> bytes:
    message = a_message()
    message["properties"][name] = value
    return written(message)


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


def deep_event(depth: int) -> bytes:
    event = json.dumps(an_event()).encode()
    return b"[[" + event[:-1] + b', "metadata": ' + nested(depth) + b"}], {}, {}]"


def twice_named() -> bytes:
    event = json.dumps(an_event()).encode()
    return b"[[" + event[:-1] + b', "stream_id": "another"}], {}, {}]'
