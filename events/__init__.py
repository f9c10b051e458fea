"""What is said: events as pure values, and the rules they keep to.

    Event               identity, context and a typed content in one frozen value        events/event.py
    catalog             every event type, one file per speaker                           events/catalog/
    EventRegistry       type -> class, validation at both ends, types of your own        events/registry.py
    topics, patterns    who hears what                                                   events/topics.py
    errors              one tree, split by what the caller should do                     events/errors/
    CloudEvents         the standard form, to and from                                   events/cloudevents.py

Nothing here knows of Celery, of a broker or of a store.
"""

from __future__ import annotations

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
from petiole.events.content import AudioContent, Content, ParametersContent, TextContent, Value, VideoContent
from petiole.events.errors import Permanent, PetioleError, Retryable, Severity, UsageError
from petiole.events.event import Category, Event, EventContext
from petiole.events.registry import EventRegistry, EventType, registry
from petiole.events.topics import TopicTrie

__all__ = [
    "AssembledContext", "AudioChunkEvent", "AudioContent", "Category", "ClassifiedIntent", "Content",
    "ContextAssembledEvent", "CustomEvent", "ErrorContent", "ErrorEvent", "Event", "EventContext", "EventRegistry",
    "EventType", "FormattedResponse", "GeneratedResponse", "IntentClassifiedEvent", "MessageEvent",
    "ParametersContent", "Permanent", "PetioleError", "ProactiveSuggestion", "ProactiveSuggestionEvent", "RequestEvent",
    "ResponseFailureEvent", "ResponseGeneratedEvent", "ResponseReadyEvent", "ResponseSuccessEvent", "Retryable",
    "Severity", "TextContent", "TextMessageEvent", "ToolResult", "ToolResultEvent", "TopicTrie", "UsageError", "Value",
    "VideoContent", "VideoFrameEvent", "registry",
]  # fmt: skip

if __name__ == "events":
    # From a checkout's root this file is importable as `events` too. Its modules have one name, `petiole.events.…`.
    __path__ = []
