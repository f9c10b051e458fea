"""Petiole with one asynchronous handler, of which many run at once in one process."""

from __future__ import annotations

from petiole import Agent
from tests.benchmarks import counters
from tests.benchmarks.contestants.petiole_bus import Client
from tests.benchmarks.contestants.petiole_event import MeasuredEvent

__all__ = ["Client", "waiting"]

waiting = Agent("waiting")


@waiting.on("bench.event.published")
async def count(event: MeasuredEvent) -> None:
    await counters.handle_async(0, event.content.number, event.content.sent_at)
