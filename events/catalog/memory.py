"""What the memory says: what it recalls, and what it notices in what it keeps."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from petiole.events.content import Content, Count, Flag, Number, Text
from petiole.events.event import MIN_PRIORITY, Category, Event, UtcDatetime
from petiole.events.ids import SYSTEM_STREAM, EventId, StreamId


class MemoryItem(Content):
    """One thing remembered: who said it, when, and how well it fits the query (higher is better, 0 is no match)."""

    role: Literal["user", "assistant", "tool"]
    text: Text
    said_at: UtcDatetime
    score: Annotated[Number, Field(ge=0)] = 0.0


class Fact(Content):
    """Something held to be so: an attribute of a subject, in which words, and the event that said it.

    Of what is only found, and not claimed, a later value replaces an earlier one and contradicts nothing.
    """

    subject: Text
    attribute: Text
    value: Text
    text: Text
    said_at: UtcDatetime
    source: EventId
    stream_id: StreamId
    is_claim: Flag = True

    @property
    def key(self) -> str:
        """What it is a value of: subject and attribute, whatever their case."""
        return f"{self.subject}: {self.attribute}".casefold()

    def has_same_value(self, other: Fact) -> bool:
        """The values differ in case and spaces at most."""
        return _words(self.value) == _words(other.value)

    def contradicts(self, other: Fact) -> bool:
        """Both are claimed, and neither value only says more than the other: "Ada" and "Ada Lovelace" agree."""
        shorter, longer = sorted((_words(self.value), _words(other.value)), key=len)
        return self.is_claim and other.is_claim and longer[: len(shorter)] != shorter


def _words(value: str) -> list[str]:
    return value.casefold().split()


class AssembledContext(Content):
    """What bears on a query, best first; empty where nothing does."""

    query: Text
    items: tuple[MemoryItem, ...] = ()
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


class ConsolidationDue(Content):
    """Which clean-up it is: the interval in seconds, and the slot it stands for."""

    interval_s: Annotated[Number, Field(gt=0)]
    slot: Count


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


class ConsolidationDueEvent(MemoryEvent):
    """It is time for a clean-up of the memory; beat says so."""

    event_type: Literal["memory.consolidation.due"] = "memory.consolidation.due"
    stream_id: StreamId = SYSTEM_STREAM
    content: ConsolidationDue
    priority: Annotated[int, Field(strict=True, ge=0, le=9)] = MIN_PRIORITY


class ConsolidationCompletedEvent(MemoryEvent):
    """A clean-up of the memory finished."""

    event_type: Literal["memory.consolidation.completed"] = "memory.consolidation.completed"
    content: Consolidation = Consolidation()
