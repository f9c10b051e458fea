"""Audit events of dead letters: which operator replayed, edited, discarded or imported which ones."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from petiole.events.content import Content, Count, Flag, Number, Positive, Text
from petiole.events.event import MIN_PRIORITY, Category, Event
from petiole.events.ids import StreamId

DEAD_LETTERS_STREAM = "dead-letters"


class RequestedReplay(Content):
    """The selected dead letters, their number and the rate per second. `canary` letters are replayed first."""

    operator: Text
    selection: Text
    letters: Count
    rate_hz: Number | None = None
    canary: Count = 0


class ReplayedLetter(Content):
    """A dead letter, the number of its replay, and the id of the new delivery."""

    letter_id: Text
    operator: Text
    subscription: str
    number: Positive
    delivery_id: Text


class EditedLetter(Content):
    """A dead letter, the id of the letter that replaces it, and the paths of the edited fields."""

    letter_id: Text
    operator: Text
    edited_to: Text
    fields: tuple[str, ...] = ()


class DiscardedLetter(Content):
    """A discarded dead letter, with its cause, state and error."""

    letter_id: Text
    operator: Text
    subscription: str
    cause: Text
    state: Text
    error: str = ""


class CompletedImport(Content):
    """How many letters an import added and how many already existed. `is_whole` is False if a line was invalid."""

    operator: Text
    imported: Count
    known: Count
    is_whole: Flag = True


class DeadLettersEvent(Event):
    """Base class of the audit events of dead letters. All are in one stream, with the lowest priority."""

    category: ClassVar[Category] = Category.SYSTEM
    stream_id: StreamId = DEAD_LETTERS_STREAM
    priority: int = Field(default=MIN_PRIORITY, strict=True, ge=0, le=9)


class DeadLetterReplayRequestedEvent(DeadLettersEvent):
    """An operator requested the replay of dead letters."""

    event_type: Literal["dead_letters.replay.requested"] = "dead_letters.replay.requested"
    content: RequestedReplay


class DeadLetterReplayedEvent(DeadLettersEvent):
    """A dead letter was replayed."""

    event_type: Literal["dead_letters.letter.replayed"] = "dead_letters.letter.replayed"
    content: ReplayedLetter


class DeadLetterEditedEvent(DeadLettersEvent):
    """A dead letter was replaced by one with an edited event."""

    event_type: Literal["dead_letters.letter.edited"] = "dead_letters.letter.edited"
    content: EditedLetter


class DeadLetterDiscardedEvent(DeadLettersEvent):
    """An operator discarded a dead letter."""

    event_type: Literal["dead_letters.letter.discarded"] = "dead_letters.letter.discarded"
    content: DiscardedLetter


class DeadLetterImportCompletedEvent(DeadLettersEvent):
    """Dead letters were imported from a file."""

    event_type: Literal["dead_letters.import.completed"] = "dead_letters.import.completed"
    content: CompletedImport
