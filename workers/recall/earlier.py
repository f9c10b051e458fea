"""Leave out of what is remembered the message that is being answered: a question is not its own answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from events.catalog.input import TextMessageEvent
from events.catalog.memory import Recollection
from events.event import Event


def said_earlier(memories: Iterable[Recollection], flow: Sequence[Event]) -> list[Recollection]:
    """Keep the recollections of what was said before this flow's own messages, in their order."""
    asked = {(event.content.text, event.timestamp) for event in flow if isinstance(event, TextMessageEvent)}
    return [each for each in memories if (each.text, each.said_at) not in asked]
