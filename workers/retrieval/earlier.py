"""Exclude the memories of the current flow, so that a question does not match itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from petiole.events.catalog.input import TextMessageEvent
from petiole.events.catalog.memory import MemoryItem
from petiole.events.catalog.tools import ToolResultEvent
from petiole.events.event import Event


def exclude_current_flow(memories: Iterable[MemoryItem], flow: Sequence[Event]) -> list[MemoryItem]:
    """Return the memories from before this flow, in their order.

    Tool results of this flow are also excluded, because tools run while memories are searched.
    """
    messages = {(event.content.text, event.timestamp) for event in flow if isinstance(event, TextMessageEvent)}
    results = {("tool", event.timestamp) for event in flow if isinstance(event, ToolResultEvent)}
    return [
        memory
        for memory in memories
        if (memory.text, memory.said_at) not in messages and (memory.role, memory.said_at) not in results
    ]
