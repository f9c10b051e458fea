"""The event that completes an aggregation: all parts arrived, or its timeout passed."""

from __future__ import annotations

from typing import ClassVar, Literal

from petiole.events.content import Content, Text
from petiole.events.event import Category, Event


class CompletedAggregation(Content):
    """The subscription and the key of the aggregation. The parts are stored in tasks/stores/aggregations.py."""

    subscription: Text
    key: str


class AggregationCompletedEvent(Event):
    """All parts of an aggregation arrived, or its timeout passed."""

    category: ClassVar[Category] = Category.PROCESSING
    event_type: Literal["aggregation.completed"] = "aggregation.completed"
    content: CompletedAggregation
