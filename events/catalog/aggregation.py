"""What is said when a handler has gathered all that it waits for, or has waited long enough."""

from __future__ import annotations

from typing import ClassVar, Literal

from petiole.events.content import Content, Text
from petiole.events.event import Category, Event


class CompletedAggregation(Content):
    """Which subscription gathers, and under which key; the parts are kept apart (tasks/stores/aggregations.py)."""

    subscription: Text
    key: str


class AggregationCompletedEvent(Event):
    """All parts of a gathering have come, or its time is over."""

    category: ClassVar[Category] = Category.PROCESSING
    event_type: Literal["aggregation.completed"] = "aggregation.completed"
    content: CompletedAggregation
