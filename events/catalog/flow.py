"""Events about flows: a flow was cancelled."""

from __future__ import annotations

from typing import ClassVar, Literal

from petiole.events.content import Content, Text
from petiole.events.event import Category, Event


class FlowCancellation(Content):
    """Who cancelled a flow, and why."""

    by: Text
    reason: str = ""


class FlowCancelledEvent(Event):
    """A flow was cancelled: none of its deliveries starts any more, and what ran was interrupted."""

    category: ClassVar[Category] = Category.SYSTEM
    event_type: Literal["flow.cancelled"] = "flow.cancelled"
    content: FlowCancellation
