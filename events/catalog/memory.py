"""What the memory says: what it recalls, and what it notices in what it keeps."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from events.content import Content, Count, Flag, Number, Text
from events.event import Category, Event, Moment


class Recollection(Content):
    """One thing remembered: who said it, when, and how well it fits the query (higher is better, 0 is no match)."""

    role: Literal["user", "assistant", "tool"]
    text: Text
    said_at: Moment
    score: Annotated[Number, Field(ge=0)] = 0.0


class AssembledContext(Content):
    """What bears on a query, best first; empty where nothing does."""

    query: Text
    items: tuple[Recollection, ...] = ()
    is_truncated: Flag = False


class LearnedPattern(Content):
    """Something that came back often enough to be called a habit."""

    pattern: Text
    occurrences: Annotated[Count, Field(ge=1)]


class Conflict(Content):
    """Two things said of one subject that cannot both hold."""

    subject: Text
    earlier: Text
    later: Text


class Consolidation(Content):
    """How many memories a clean-up looked at, merged and dropped."""

    examined: Count = 0
    merged: Count = 0
    dropped: Count = 0


class MemoryEvent(Event):
    """Base of what the memory publishes."""

    category: ClassVar[Category] = Category.PROCESSING


class ContextAssembledEvent(MemoryEvent):
    """Memories were retrieved for a request."""

    event_type: Literal["memory.context.assembled"] = "memory.context.assembled"
    content: AssembledContext


class PatternLearnedEvent(MemoryEvent):
    """A learned pattern was identified."""

    event_type: Literal["memory.pattern.detected"] = "memory.pattern.detected"
    content: LearnedPattern


class ConflictDetectedEvent(MemoryEvent):
    """Contradictory information was found."""

    event_type: Literal["memory.conflict.detected"] = "memory.conflict.detected"
    content: Conflict


class ConsolidationCompletedEvent(MemoryEvent):
    """A clean-up of the memory finished."""

    event_type: Literal["memory.consolidation.completed"] = "memory.consolidation.completed"
    content: Consolidation = Consolidation()
