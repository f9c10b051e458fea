"""Events as pure values, and the rules that they follow.

    Event               identity, context and a typed content in one frozen value        events/event.py
    catalog             every built-in event type, one file per publisher                events/catalog/
    EventRegistry       event types by topic; validation; user-defined types             events/registry.py
    topics, patterns    matching of topics to subscriptions                              events/topics.py
    errors              one tree of exceptions, split by what the caller should do       events/errors/
    CloudEvents         conversion to and from the standard format                       events/cloudevents.py

This package imports neither Celery nor any broker or store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from petiole.events.content import AudioContent, Content, ParametersContent, TextContent, Value, VideoContent
from petiole.events.errors import Permanent, PetioleError, Retryable, Severity, UsageError
from petiole.events.event import Category, Event, EventContext
from petiole.events.registry import EventRegistry, EventType, registry
from petiole.events.topics import TopicTrie
from petiole.lazy import lazy_names

if TYPE_CHECKING:
    from petiole.events.catalog.error import ErrorContent, ErrorEvent
    from petiole.events.catalog.input import AudioChunkEvent, TextMessageEvent, VideoFrameEvent
    from petiole.events.catalog.llm import GeneratedResponse, ResponseGeneratedEvent
    from petiole.events.catalog.memory import AssembledContext, ContextAssembledEvent
    from petiole.events.catalog.message import CustomEvent, MessageEvent
    from petiole.events.catalog.orchestrator import (
        ClassifiedIntent,
        FormattedResponse,
        IntentClassifiedEvent,
        ResponseReadyEvent,
    )
    from petiole.events.catalog.proactive import ProactiveSuggestion, ProactiveSuggestionEvent
    from petiole.events.catalog.request import RequestEvent, ResponseFailureEvent, ResponseSuccessEvent
    from petiole.events.catalog.tools import ToolResult, ToolResultEvent

__all__ = [
    "AssembledContext", "AudioChunkEvent", "AudioContent", "Category", "ClassifiedIntent", "Content",
    "ContextAssembledEvent", "CustomEvent", "ErrorContent", "ErrorEvent", "Event", "EventContext", "EventRegistry",
    "EventType", "FormattedResponse", "GeneratedResponse", "IntentClassifiedEvent", "MessageEvent",
    "ParametersContent", "Permanent", "PetioleError", "ProactiveSuggestion", "ProactiveSuggestionEvent", "RequestEvent",
    "ResponseFailureEvent", "ResponseGeneratedEvent", "ResponseReadyEvent", "ResponseSuccessEvent", "Retryable",
    "Severity", "TextContent", "TextMessageEvent", "ToolResult", "ToolResultEvent", "TopicTrie", "UsageError", "Value",
    "VideoContent", "VideoFrameEvent", "registry",
]  # fmt: skip

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "petiole.events.catalog.error": "ErrorContent ErrorEvent",
        "petiole.events.catalog.input": "AudioChunkEvent TextMessageEvent VideoFrameEvent",
        "petiole.events.catalog.llm": "GeneratedResponse ResponseGeneratedEvent",
        "petiole.events.catalog.memory": "AssembledContext ContextAssembledEvent",
        "petiole.events.catalog.message": "CustomEvent MessageEvent",
        "petiole.events.catalog.orchestrator": (
            "ClassifiedIntent FormattedResponse IntentClassifiedEvent ResponseReadyEvent"
        ),
        "petiole.events.catalog.proactive": "ProactiveSuggestion ProactiveSuggestionEvent",
        "petiole.events.catalog.request": "RequestEvent ResponseFailureEvent ResponseSuccessEvent",
        "petiole.events.catalog.tools": "ToolResult ToolResultEvent",
    },
)

if __name__ == "events":
    # From a checkout's root this file can also be imported as `events`. Its modules are only `petiole.events.…`.
    __path__ = []
