"""What the proactive agent says: patterns it sees, suggestions, and that somebody needs help."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from petiole.events.content import Content, Count, Ratio, Text
from petiole.events.event import Category, Event


class ProactiveSuggestion(Content):
    """A suggestion nobody asked for: why it is made, how sure it is, and what keeps it from being repeated."""

    text: Text
    reason: Text
    confidence: Ratio
    cooldown_key: Text


class DetectedPattern(Content):
    """Something that happened several times within a window of time."""

    pattern: Text
    occurrences: Annotated[Count, Field(ge=1)]
    window: timedelta


class Intervention(Content):
    """Why somebody should look after a user."""

    reason: Text
    confidence: Ratio


class ProactiveEvent(Event):
    """Base of what the proactive agent publishes; its events give way to all others."""

    category: ClassVar[Category] = Category.PROCESSING
    priority: Annotated[int, Field(strict=True, ge=0, le=9)] = 1


class ProactiveSuggestionEvent(ProactiveEvent):
    """A proactive suggestion was made."""

    category: ClassVar[Category] = Category.OUTPUT
    event_type: Literal["proactive.suggestion.ready"] = "proactive.suggestion.ready"
    content: ProactiveSuggestion


class PatternDetectedEvent(ProactiveEvent):
    """A pattern was seen while it happened."""

    event_type: Literal["proactive.pattern.detected"] = "proactive.pattern.detected"
    content: DetectedPattern


class InterventionNeededEvent(ProactiveEvent):
    """A user seems to need help."""

    event_type: Literal["proactive.intervention.needed"] = "proactive.intervention.needed"
    content: Intervention
