"""Leave out of what is remembered what belongs to the message being answered: a question is not its own answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from petiole.events.catalog.input import TextMessageEvent
from petiole.events.catalog.memory import MemoryItem
from petiole.events.catalog.tools import ToolResultEvent
from petiole.events.event import Event


def exclude_current_flow(memories: Iterable[MemoryItem], flow: Sequence[Event]) -> list[MemoryItem]:
    """Keep the recollections of what was said before this flow, in their order.

    Tools run while memories are looked up: what they find for this very message is no memory either.
    """
    asked = {(event.content.text, event.timestamp) for event in flow if isinstance(event, TextMessageEvent)}
    found = {("tool", event.timestamp) for event in flow if isinstance(event, ToolResultEvent)}
    return [
        each for each in memories if (each.text, each.said_at) not in asked and (each.role, each.said_at) not in found
    ]
