"""Events of the output agent: responses formatted for a channel, sent, failed or dropped."""

from __future__ import annotations

from typing import ClassVar, Literal

from petiole.events.content import AudioContent, Content, Count, Text
from petiole.events.event import Category, Event


class FormattedMessage(Content):
    """A message in the format of its channel."""

    text: Text
    channel: Text


MessageKind = Literal["answer", "suggestion", "intervention"]
"""What a message is: the answer to a user, a suggestion that nobody asked for, or a call for an operator."""


class SentMessage(Content):
    """A message that its channel accepted, and the channel's id for it."""

    text: Text
    channel: Text
    message_id: Text
    kind: MessageKind = "answer"


class DeliveryFailure(Content):
    """A message that its channel did not accept, and the error."""

    text: Text
    channel: Text
    kind: MessageKind = "answer"
    error_type: Text
    error: Text


class DroppedSuggestion(Content):
    """A suggestion that was not sent, and the reason."""

    text: Text
    cooldown_key: Text
    reason: Text


class InterruptedSpeech(Content):
    """A spoken answer that the user interrupted: its text, the text that was heard, and the time of each."""

    text: Text
    heard_text: str
    heard_ms: Count
    total_ms: Count


class OutputEvent(Event):
    """Base class of the events of the output agent."""

    category: ClassVar[Category] = Category.OUTPUT


class FormattingCompletedEvent(OutputEvent):
    """A response was formatted for its channel."""

    event_type: Literal["output.formatting.completed"] = "output.formatting.completed"
    content: FormattedMessage


class MessageSentEvent(OutputEvent):
    """A message was sent to its channel."""

    event_type: Literal["output.message.sent"] = "output.message.sent"
    content: SentMessage


class MessageFailedEvent(OutputEvent):
    """A message could not be sent."""

    event_type: Literal["output.message.failed"] = "output.message.failed"
    content: DeliveryFailure


class SuggestionDroppedEvent(OutputEvent):
    """A suggestion was not sent, because it is no longer wanted."""

    event_type: Literal["output.suggestion.dropped"] = "output.suggestion.dropped"
    content: DroppedSuggestion


class AnswerAudioEvent(OutputEvent):
    """A chunk of an answer as audio is to be played."""

    event_type: Literal["output.audio.chunk"] = "output.audio.chunk"
    content: AudioContent


class SpeechInterruptedEvent(OutputEvent):
    """A spoken answer was interrupted by its user."""

    event_type: Literal["output.speech.interrupted"] = "output.speech.interrupted"
    content: InterruptedSpeech
