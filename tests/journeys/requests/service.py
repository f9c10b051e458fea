"""A service that answers, and what is asked of it."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from petiole.events import MessageEvent, ParametersContent, RequestEvent, ResponseSuccessEvent
from petiole.tasks import NO_REPLY_YET, Agent, Context
from petiole.tasks.testing import EventTestHarness
from tests.support.processes import Node


class User(BaseModel):
    user_id: str
    name: str
    born: datetime | None = None


class Query(BaseModel):
    user_id: str


def a_data_service() -> Agent:
    agent = Agent("data_service")

    @agent.answers("get_user_data")
    def get_user_data(user_id: str, born: datetime | None = None) -> User:
        return User(user_id=user_id, name="Ada", born=born)

    @agent.answers("echo")
    def echo(event: RequestEvent) -> object:
        return event.content.parameters.get("value")

    @agent.answers("query")
    async def query(query: Query, context: Context) -> str:
        await asyncio.sleep(0)
        return f"{query.user_id} by {context.subscription.name}"

    @agent.answers("fail")
    def fail() -> None:
        raise KeyError("no such user")

    @agent.answers("break")
    def break_down() -> None:
        raise RuntimeError("the disk is full")

    return agent


def a_message_of(topic: str) -> MessageEvent:
    return MessageEvent(event_type=topic, stream_id="s", content=ParametersContent())


def topics(harness: EventTestHarness) -> list[str]:
    return [event.event_type for event in harness.published_events()]


def answer(event: RequestEvent, value: str, **instead: str) -> ResponseSuccessEvent:
    said = event.content.model_dump(exclude={"parameters"}) | instead
    return event.caused(ResponseSuccessEvent, content=said | {"parameters": {"response": value}})


def a_silent_answer(event: RequestEvent) -> object:
    return NO_REPLY_YET


SERVICE = '''
import os
import time
import redis
from petiole.events import Event, RequestEvent
from petiole.tasks import Agent, RetryPolicy

client = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"], decode_responses=True)
data = Agent("data_service")

@data.answers("nth")
def nth(number: int, of: int) -> int:
    """Answer in reverse order: once all others of higher numbers have been answered."""
    deadline = time.monotonic() + 50
    while int(client.get("answered") or 0) < of - 1 - number and time.monotonic() < deadline:
        time.sleep(0.005)
    client.incr("answered")
    return number * number

@data.answers("echo")
def echo(value: object = None) -> object:
    return value

@data.answers("slow")
def slow(seconds: float) -> str:
    client.rpush("slow_runs", os.getpid())
    time.sleep(seconds)
    return "slow"

@data.answers("fail")
def fail() -> None:
    raise LookupError("no such user")

@data.answers("die")
def die() -> None:
    client.incr("deaths")
    os.kill(os.getpid(), 9)
'''


def ask(node: Node, code: str) -> Any:
    """Run code that asks, in a service of its own; returns what it printed, as JSON."""
    return json.loads(node.run(ASK + code).splitlines()[-1])


ASK = """
import json, time, sys
from petiole.tasks import request
from petiole.tasks import default_bus as bus
from tests.support.inside import Inside, shut_down
pending_requests = Inside(bus).pending_requests
"""
