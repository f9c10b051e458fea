"""The events of the page Live, as a browser gets them, while the broker goes and comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack

import httpx2

from petiole.events import TextContent, TextMessageEvent
from petiole.workers.console import create_console
from tests.support.apps import state_store_away
from tests.support.browser import serving


def a_message(stream_id: str = "s") -> TextMessageEvent:
    return TextMessageEvent(stream_id=stream_id, content=TextContent(text="Hello"))


def read_until(lines: Iterator[str], event: str) -> str:
    """Read events until one of this kind, and return its data."""
    next(line for line in lines if line == f"event: {event}")
    return next(lines).removeprefix("data: ")


def test_a_browser_that_comes_while_the_broker_is_away_is_told_and_gets_events_when_it_is_back(harness):
    application = create_console(harness.bus, trusts_loopback=True)
    with (
        serving(application) as address,
        httpx2.Client(base_url=address, timeout=60) as visitor,
        ExitStack() as visit,
    ):
        with state_store_away(harness):
            lines = visit.enter_context(visitor.stream("GET", "/events")).iter_lines()
            assert "does not answer" in read_until(lines, "state")
        assert read_until(lines, "state") == "Live."
        harness.publish(a_message())

        assert json.loads(read_until(lines, "recorded"))["topic"] == "input.message.received"
