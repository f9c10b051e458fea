"""What a handler writes bit by bit, and what happens to it when its process stands still or is overtaken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from petiole.events import Event, TextContent, TextMessageEvent
from petiole.events.errors import UsageError
from petiole.tasks import Agent, Context, ResponseStreamReader
from petiole.tasks.settings import Settings
from petiole.tasks.testing import EventTestHarness
from tests.support.errors import has_code
from tests.support.inside import Inside


@pytest.fixture
def harness() -> Iterator[EventTestHarness]:
    with EventTestHarness(settings=Settings(heartbeat_timeout_s=1)) as harness:
        yield harness


def a_message() -> TextMessageEvent:
    return TextMessageEvent(stream_id="s", content=TextContent(text="Hello"))


def an_author(*steps: Callable[[], Any]) -> Any:
    """Make a handler that says a letter after each step."""

    async def write(event: Event, context: Context) -> None:
        async def all_of_it() -> None:
            for letter, step in zip("abcdef", steps, strict=False):
                if asyncio.iscoroutine(taken := step()):
                    await taken
                draft.write(letter)
            await asyncio.sleep(0.2)

        async with context.stream_response() as draft:
            await draft.run(all_of_it())

    return write


def marks(harness: EventTestHarness) -> list[tuple[str, int]]:
    return [(piece.kind, piece.attempt) for piece in Inside(harness).chunks("s") if piece.kind != "delta"]


def test_a_process_that_stood_still_for_longer_than_its_lease_begins_anew_with_all_it_has(
    harness: EventTestHarness,
) -> None:
    def stand_still() -> None:
        # The loop stands, so nobody vouches for the run; meanwhile a reader looks.
        time.sleep(1.2)
        Inside(harness).lose_answers("s")

    harness.subscribe("input.*", an_author(lambda: None, lambda: asyncio.sleep(0.2), stand_still))

    harness.send_through(message := a_message())

    assert marks(harness) == [("started", 1), ("abandoned", 1), ("started", 2), ("finished", 2)]
    pieces = list(ResponseStreamReader(harness.bus)("s", message.event_id))
    assert "".join(piece.text for piece in pieces if piece.attempt == 2) == "abc"


def test_a_run_that_was_overtaken_stops_writing(harness: EventTestHarness) -> None:
    message = a_message()

    def overtake() -> None:
        Inside(harness).overtake("s", message.event_id)

    steps = [lambda: None, lambda: asyncio.sleep(0.2), overtake, *[lambda: asyncio.sleep(0.2)] * 3]
    author = Agent("author")
    author.on("input.*", retry=None)(an_author(*steps))
    harness.add(author)

    harness.publish(message)
    reading = ResponseStreamReader(harness.bus).all("s", timeout=5)
    seen = [next(reading)]
    while (seen[-1].kind, seen[-1].attempt) != ("started", 2):
        seen.append(next(reading))

    first = "".join(piece.text for piece in seen)
    assert first in {"ab", "a"}
    assert [piece.kind for piece in seen if piece.kind != "delta"] == ["started", "abandoned", "started"]


def test_an_error_in_the_block_is_the_end_of_the_draft(harness: EventTestHarness) -> None:
    def fail() -> None:
        raise UsageError("no")

    harness.subscribe("input.*", an_author(lambda: None, fail))

    harness.send_through(a_message())

    assert marks(harness) == [("started", 1), ("failed", 1)]


def test_on_busy_is_one_of_three_words() -> None:
    with pytest.raises(UsageError, check=has_code("invalid_subscription"), match="on_busy"):
        Agent("author").on("input.*", on_busy="shout")(an_author())  # type: ignore[arg-type]  # what is tested


def test_answers_that_queue_up_are_ordered_by_stream() -> None:
    author = Agent("author")
    author.on("input.*", on_busy="enqueue")(an_author())

    (subscription,) = author.subscriptions
    assert subscription.ordered_by == "stream_id"
