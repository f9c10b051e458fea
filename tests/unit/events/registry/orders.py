"""Event types of one's own, for tests of the registry."""

from __future__ import annotations

from typing import Literal

from petiole.events import (
    Content,
    Event,
    EventRegistry,
)
from petiole.events.content import Text


class Order(Content):
    order_id: Text


class OrderPlacedEvent(Event):
    """An order was placed."""

    event_type: Literal["order.placed"] = "order.placed"
    content: Order


def a_custom_document(parameters: object, topic: str = "custom.data_updated") -> dict[str, object]:
    return {"event_type": topic, "stream_id": "conversation-1", "content": {"parameters": parameters}}


def a_registry_that_knows_data_updated() -> EventRegistry:
    registry = EventRegistry()
    registry.declare("custom.data_updated", {"entity_id": str, "version": int}, description="A record changed.")
    return registry
