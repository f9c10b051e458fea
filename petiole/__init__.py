"""Petiole: the event backbone for AI agents, on Celery.

    from petiole import Agent, Event, publish, request

    events     what is said: event types and their rules
    tasks      how it travels: publish, deliver, retry, dead-letter
    workers    who acts on it: the bundled agents, their providers, the command line

From a checkout's root the folders are importable by their own names, too: `from tasks import publish`. Modules inside
them have one name, the long one: `from petiole.tasks.agents import Agent`.

Importing this package loads none of them; each name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from petiole.events import Event, EventContext, MessageEvent, TextContent, TextMessageEvent
    from petiole.tasks import Agent, Context, RetryPolicy, publish, publish_many, request

__all__ = [
    "Agent",
    "Context",
    "Event",
    "EventContext",
    "MessageEvent",
    "RetryPolicy",
    "TextContent",
    "TextMessageEvent",
    "publish",
    "publish_many",
    "request",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    events = import_module("petiole.events")
    return getattr(events if hasattr(events, name) else import_module("petiole.tasks"), name)
