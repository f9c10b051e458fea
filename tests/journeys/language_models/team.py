"""A team whose language model stands behind an endpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from petiole.events import Event, TextContent, TextMessageEvent
from petiole.tasks.testing import EventTestHarness

SLOW = 0.05


Team = Callable[..., EventTestHarness]


def a_message(text: str = "Why is the sky blue?") -> TextMessageEvent:
    return TextMessageEvent(stream_id="s", content=TextContent(text=text))


def said(events: list[Event], kind: type[Event], message: Event | None = None) -> list[Any]:
    """Choose the events of a class; of one message's flow, where it is given."""
    flow = message.correlation_id if message else None
    return [event for event in events if isinstance(event, kind) and flow in (None, event.correlation_id)]
