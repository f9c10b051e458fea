"""Awaits that are cancelled at random, on a slow network that is cut: each answer belongs to its question."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from petiole.events import MessageEvent
from petiole.events.errors import BrokerUnavailable, PublishOutcomeUnknown, RequestTimedOut
from petiole.tasks.publication import PublishTask
from petiole.tasks.requests.requester import Requester, Response
from tests.support.apps import a_bus
from tests.support.inside import Inside
from tests.support.traffic import IS_FULL

QUESTIONS, AT_ONCE = (4_000, 200) if IS_FULL else (150, 60)
OUTAGES = (BrokerUnavailable, PublishOutcomeUnknown, RequestTimedOut)

MODULE = """
from petiole.tasks import Agent

echo = Agent("echo")

@echo.answers("ask")
async def ask(number: int) -> dict:
    return {"number": number, "text": "x" * (number % 7 * 1_000)}

@echo.on("message.said")
async def hear(event): ...
"""


@pytest.mark.timeout(600 if IS_FULL else 240)
def test_each_answer_is_that_to_its_question_whoever_stops_waiting(system, server, proxy, eventually, capsys):
    system.module("two_agents", MODULE)
    worker = system.worker("only", "--pool", "threads", "-c", "4")
    proxy.latency_s = 0.02
    bus, inside = a_bus(proxy.url), Inside(server.url)
    ends: Counter[str] = Counter()
    published: list[str] = []

    async def ask(number: int) -> None:
        response: Response[object] = await Requester(bus).aio("ask", responder="echo", number=number, timeout=20)
        assert response.value == {"number": number, "text": "x" * (number % 7 * 1_000)}

    async def say(number: int) -> None:
        event = MessageEvent(event_type="message.said", stream_id=f"s{number}")
        publish: Any = bus.app.tasks[PublishTask.name]
        publication = await publish.aio(event)
        assert publication.event.event_id == event.event_id
        published.append(event.event_id)

    async def one(number: int, gate: asyncio.Semaphore) -> None:
        async with gate:
            if number % 50 == 49:
                proxy.reset()
            task = asyncio.ensure_future(say(number) if number % 5 == 0 else ask(number))
            await asyncio.wait({task}, timeout=random.expovariate(4) if random.random() < 0.5 else 30)
            if not task.done():
                task.cancel()
            try:
                await task
                ends["answered"] += 1
            except asyncio.CancelledError:
                ends["cancelled"] += 1
            except OUTAGES as error:
                ends[type(error).__name__] += 1

    async def all_of_them() -> None:
        gate = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for number in range(QUESTIONS):
                group.create_task(one(number, gate))

    asyncio.run(all_of_them())

    with capsys.disabled():
        print(f"\n{QUESTIONS} awaits: {dict(ends)}")
    assert ends["answered"] > QUESTIONS // 4
    assert ends["cancelled"] > QUESTIONS // 20
    assert set(published) <= {each["event_id"] for each in inside.history("message.said")}
    eventually(lambda: inside.is_idle("echo"), 30, system.logs)
    assert inside.dead_letters() == []
    assert worker.poll() is None
