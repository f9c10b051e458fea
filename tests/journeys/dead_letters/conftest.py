"""A shop with four dead letters."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from petiole.events import Event, MessageEvent, TextMessageEvent
from petiole.events.errors import ToolFailed
from petiole.tasks import Agent, Context
from petiole.tasks.testing import EventTestHarness
from tests.journeys.dead_letters.shop import broken, noted


@pytest.fixture(autouse=True)
def nothing_heard() -> None:
    noted.clear()
    broken.clear()


@pytest.fixture
def shop(harness: EventTestHarness, a_message: Callable[..., Event]) -> EventTestHarness:
    """Give a harness whose only handler has failed for four messages, and is mended for those without an x."""
    agent = Agent("shop")

    @agent.on("input.*")
    def offer(event: TextMessageEvent, context: Context) -> MessageEvent | None:
        noted.append((event.content.text, context.is_replay, context.delivery_id))
        if event.content.text in broken or "all" in broken:
            raise ToolFailed("till", f"it does not take {event.content.text}")
        return event.caused(MessageEvent, event_type="message.offer")

    harness.add(agent)
    broken.add("all")
    for number in range(4):
        harness.send_through(a_message(f"{'x' if number % 2 else ''}{number}", stream_id=f"s{number % 2}"))
    broken.clear()
    broken.update({"x1", "x3"})
    noted.clear()
    assert len(harness.dead_letters()) == 4
    return harness
