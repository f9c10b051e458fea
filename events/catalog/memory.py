"""Events of the memory agent: retrieved memories, and patterns and conflicts among the stored ones."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from petiole.events.content import Content, Count, Flag, Number, Text
from petiole.events.event import MIN_PRIORITY, Category, Event, UtcDatetime
from petiole.events.ids import SYSTEM_STREAM, EventId, StreamId


class MemoryItem(Content):
    """A stored message, its role and time, and its score for the query (higher is better, 0 is no match).

    `said_by` is the user whose message it is or answers, `flow` the correlation id of that message.
    """

    role: Literal["user", "assistant", "tool"]
    text: Text
    said_at: UtcDatetime
    score: Annotated[Number, Field(ge=0)] = 0.0
    said_by: str | None = None
    flow: str | None = None


class Fact(Content):
    """A value of a subject's attribute, with the text and the event that it was extracted from.

    A later value replaces an earlier one; without a conflict if it is a correction, or if `is_claim` is False.
    """

    subject: Text
    attribute: Text
    value: Text
    text: Text
    said_at: UtcDatetime
    source: EventId
    stream_id: StreamId
    is_claim: Flag = True
    is_correction: Flag = False

    @property
    def key(self) -> str:
        """The subject and attribute, independent of case."""
        return f"{self.subject}: {self.attribute}".casefold()

    def has_same_value(self, other: Fact) -> bool:
        """Return whether the values are equal, ignoring case and spaces."""
        return _words(self.value) == _words(other.value)

    def contradicts(self, other: Fact) -> bool:
        """Return whether both are claims with different values. "Ada" and "Ada Lovelace" do not contradict."""
        if self.is_correction:
            return False
        shorter, longer = sorted((_words(self.value), _words(other.value)), key=len)
        return self.is_claim and other.is_claim and longer[: len(shorter)] != shorter


def _words(value: str) -> list[str]:
    return value.casefold().split()


class Conflict(Content):
    """Two statements about one subject that contradict each other."""

    subject: Text
    earlier: Text
    later: Text


class Forgotten(Content):
    """How many facts and messages of a user were deleted because the user asked, or an operator."""

    facts: Count = 0
    messages: Count = 0


class AssembledContext(Content):
    """What is known for a message: the conversation so far, and the memories that match, best first.

    Attributes:
        items: The memories that match the query; empty if none does.
        turns: The last messages of the conversation, oldest first: whole exchanges within the token budget.
        summary: The messages before them, shortened; a line each.
        facts: What the user stated about itself, as `attribute: value`.
        conflicts: The statements of the message that contradict what the user stated before.
        forgotten: What was deleted because the message asks for it.
    """

    query: Text
    items: tuple[MemoryItem, ...] = ()
    is_truncated: Flag = False
    turns: tuple[MemoryItem, ...] = ()
    summary: str = ""
    facts: tuple[Text, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    forgotten: Forgotten | None = None


class LearnedPattern(Content):
    """Something that occurred often enough to count as a habit."""

    pattern: Text
    occurrences: Annotated[Count, Field(ge=1)]


class ConsolidationDue(Content):
    """The schedule slot of a consolidation, and the interval in seconds."""

    interval_s: Annotated[Number, Field(gt=0)]
    slot: Count


class Consolidation(Content):
    """How many memories a consolidation examined, merged and dropped."""

    examined: Count = 0
    merged: Count = 0
    dropped: Count = 0


class MemoryEvent(Event):
    """Base class of the events of the memory agent."""

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
    """Beat scheduled a consolidation of the memories."""

    event_type: Literal["memory.consolidation.due"] = "memory.consolidation.due"
    stream_id: StreamId = SYSTEM_STREAM
    content: ConsolidationDue
    priority: Annotated[int, Field(strict=True, ge=0, le=9)] = MIN_PRIORITY


class ConsolidationCompletedEvent(MemoryEvent):
    """A consolidation of the memories finished."""

    event_type: Literal["memory.consolidation.completed"] = "memory.consolidation.completed"
    content: Consolidation = Consolidation()


class MemoriesForgottenEvent(MemoryEvent):
    """Facts and messages of a user were deleted. The event does not repeat them."""

    event_type: Literal["memory.items.forgotten"] = "memory.items.forgotten"
    content: Forgotten
