"""A response that is written past any agent."""

from __future__ import annotations

from petiole.tasks import EventBus


def begin_response(bus: EventBus) -> None:
    """Begin the response `a` in the stream `s`."""
    bus.stores.response_streams.begin("s", "a", correlation_id="f", token="t")


def write_response(bus: EventBus, *words: str) -> None:
    """Write words of that response; a full stop ends it."""
    for word in words:
        bus.stores.response_streams.write("s", "a", token="t", text=word, end="finished" if word == "." else None)
