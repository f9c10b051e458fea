"""Petiole: the event backbone for AI agents, on Celery. This module has the names that most programs need.

    from petiole import Agent, EventBus, publish, request

    events     event types and their validation
    tasks      the backbone: publish, deliver, retry, dead-letter
    workers    the bundled agents, their providers, the command line

The submodules have one name each: `petiole.tasks.agents`. From a checkout's root the three packages can be imported by
their short names, too: `from tasks import publish`.

Importing this package loads no other module; each name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from petiole.events import (
        Event,
        EventContext,
        MessageEvent,
        Permanent,
        PetioleError,
        Retryable,
        TextContent,
        TextMessageEvent,
        UsageError,
    )
    from petiole.tasks import (
        Agent,
        Context,
        EventBus,
        RetryPolicy,
        guarded,
        idempotent,
        later,
        publish,
        publish_many,
        read_answer,
        report,
        request,
    )

__all__ = [
    "Agent",
    "Context",
    "Event",
    "EventBus",
    "EventContext",
    "MessageEvent",
    "Permanent",
    "PetioleError",
    "RetryPolicy",
    "Retryable",
    "TextContent",
    "TextMessageEvent",
    "UsageError",
    "guarded",
    "idempotent",
    "later",
    "publish",
    "publish_many",
    "read_answer",
    "report",
    "request",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    events = import_module("petiole.events")
    return getattr(events if hasattr(events, name) else import_module("petiole.tasks"), name)
