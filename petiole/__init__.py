"""Petiole: the event backbone for AI agents, on Celery. This module has the names that most programs need.

    from petiole import Agent, EventBus, publish, request

    events     event types and their validation
    tasks      the backbone: publish, deliver, retry, dead-letter
    workers    the bundled agents, their providers, the command line

The submodules have one name each: `petiole.tasks.agents`. From a checkout's root the three packages can be imported by
their short names, too: `from tasks import publish`.

Importing this package loads nothing else; each name is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from petiole.lazy import lazy_names

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
        listen,
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
    "listen",
    "publish",
    "publish_many",
    "read_answer",
    "report",
    "request",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "petiole.events": (
            "Event EventContext MessageEvent Permanent PetioleError Retryable TextContent TextMessageEvent UsageError"
        ),
        "petiole.tasks": (
            "Agent Context EventBus RetryPolicy guarded idempotent later listen "
            "publish publish_many read_answer report request"
        ),
    },
)
