"""The event of the benchmark as a user of Petiole writes it: a class with a topic and a typed content."""

from __future__ import annotations

import time
from typing import Literal

from petiole import Event, EventContext
from petiole.events import Content
from tests.benchmarks.document import SOURCE, TEXT


class MeasuredContent(Content):
    number: int
    sent_at: float
    text: str


class MeasuredEvent(Event):
    event_type: Literal["bench.event.published"] = "bench.event.published"
    content: MeasuredContent


def build_event(number: int) -> MeasuredEvent:
    return MeasuredEvent(
        stream_id=f"stream-{number}",
        content=MeasuredContent(number=number, sent_at=time.monotonic(), text=TEXT),
        context=EventContext(source=SOURCE),
    )
