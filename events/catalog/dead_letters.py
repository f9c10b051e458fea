"""What operators do with dead letters: who had which delivered again, changed or discarded."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from petiole.events.content import Content, Count, Flag, Number, Positive, Text
from petiole.events.event import MIN_PRIORITY, Category, Event
from petiole.events.ids import StreamId

DEAD_LETTERS_STREAM = "dead-letters"


class RequestedReplay(Content):
    """Which letters an operator chose, how many that were, and how fast they are to go; a canary goes first."""

    operator: Text
    selection: Text
    letters: Count
    rate_hz: Number | None = None
    canary: Count = 0


class ReplayedLetter(Content):
    """A letter whose n-th replay began, under a delivery of its own."""

    letter_id: Text
    operator: Text
    subscription: str
    number: Positive
    delivery_id: Text


class EditedLetter(Content):
    """A letter, the one that stands for it now, and the places in the event that were changed."""

    letter_id: Text
    operator: Text
    edited_to: Text
    fields: tuple[str, ...] = ()


class DiscardedLetter(Content):
    """A letter that was removed, and what it was."""

    letter_id: Text
    operator: Text
    subscription: str
    cause: Text
    state: Text
    error: str = ""


class CompletedImport(Content):
    """How many letters came from a file, and how many of it were known; not whole where a line was refused."""

    operator: Text
    imported: Count
    known: Count
    is_whole: Flag = True


class DeadLettersEvent(Event):
    """Base of what is done with dead letters; one stream holds it all, and nothing waits for it."""

    category: ClassVar[Category] = Category.SYSTEM
    stream_id: StreamId = DEAD_LETTERS_STREAM
    priority: int = Field(default=MIN_PRIORITY, strict=True, ge=0, le=9)


class DeadLetterReplayRequestedEvent(DeadLettersEvent):
    """An operator had dead letters delivered again."""

    event_type: Literal["dead_letters.replay.requested"] = "dead_letters.replay.requested"
    content: RequestedReplay


class DeadLetterReplayedEvent(DeadLettersEvent):
    """A dead letter was delivered again."""

    event_type: Literal["dead_letters.letter.replayed"] = "dead_letters.letter.replayed"
    content: ReplayedLetter


class DeadLetterEditedEvent(DeadLettersEvent):
    """A dead letter was replaced by one with another event."""

    event_type: Literal["dead_letters.letter.edited"] = "dead_letters.letter.edited"
    content: EditedLetter


class DeadLetterDiscardedEvent(DeadLettersEvent):
    """A dead letter was discarded by an operator."""

    event_type: Literal["dead_letters.letter.discarded"] = "dead_letters.letter.discarded"
    content: DiscardedLetter


class DeadLetterImportCompletedEvent(DeadLettersEvent):
    """Dead letters were imported from a file."""

    event_type: Literal["dead_letters.import.completed"] = "dead_letters.import.completed"
    content: CompletedImport
