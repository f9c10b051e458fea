"""Events of the proactive agent: detected patterns, suggestions, and requests for human help."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from petiole.events.content import Content, Count, Ratio, Text
from petiole.events.event import Category, Event


class ProactiveSuggestion(Content):
    """An unrequested suggestion with its reason and confidence. `cooldown_key` prevents repetitions."""

    text: Text
    reason: Text
    confidence: Ratio
    cooldown_key: Text


class DetectedPattern(Content):
    """Something that occurred several times within a time window."""

    pattern: Text
    occurrences: Annotated[Count, Field(ge=1)]
    window: timedelta


class Intervention(Content):
    """Why a person should help a user."""

    reason: Text
    confidence: Ratio


class ProactiveEvent(Event):
    """Base class of the events of the proactive agent. Their priority is low."""

    category: ClassVar[Category] = Category.PROCESSING
    priority: Annotated[int, Field(strict=True, ge=0, le=9)] = 1


class ProactiveSuggestionEvent(ProactiveEvent):
    """A proactive suggestion was made."""

    category: ClassVar[Category] = Category.OUTPUT
    event_type: Literal["proactive.suggestion.ready"] = "proactive.suggestion.ready"
    content: ProactiveSuggestion


class PatternDetectedEvent(ProactiveEvent):
    """A pattern was detected as it occurred."""

    event_type: Literal["proactive.pattern.detected"] = "proactive.pattern.detected"
    content: DetectedPattern


class InterventionNeededEvent(ProactiveEvent):
    """A user seems to need help."""

    event_type: Literal["proactive.intervention.needed"] = "proactive.intervention.needed"
    content: Intervention
