"""What the output says: that an answer was shaped for its channel, and whether it arrived or was dropped."""

from __future__ import annotations

from typing import ClassVar, Literal

from petiole.events.content import Content, Text
from petiole.events.event import Category, Event


class FormattedMessage(Content):
    """A message in the form that its channel takes."""

    text: Text
    channel: Text


class SentMessage(Content):
    """A message that its channel took, under the channel's own id for it."""

    text: Text
    channel: Text
    message_id: Text


class DeliveryFailure(Content):
    """A message that its channel did not take, and why."""

    text: Text
    channel: Text
    error_type: Text
    error: Text


class DroppedSuggestion(Content):
    """A suggestion that was not delivered, and why."""

    text: Text
    cooldown_key: Text
    reason: Text


class OutputEvent(Event):
    """Base of what the output publishes."""

    category: ClassVar[Category] = Category.OUTPUT


class FormattingCompletedEvent(OutputEvent):
    """A response was formatted for its channel."""

    event_type: Literal["output.formatting.completed"] = "output.formatting.completed"
    content: FormattedMessage


class MessageSentEvent(OutputEvent):
    """A message was delivered."""

    event_type: Literal["output.message.sent"] = "output.message.sent"
    content: SentMessage


class MessageFailedEvent(OutputEvent):
    """A message could not be delivered."""

    event_type: Literal["output.message.failed"] = "output.message.failed"
    content: DeliveryFailure


class SuggestionDroppedEvent(OutputEvent):
    """A suggestion was not delivered, because nobody wants it any more."""

    event_type: Literal["output.suggestion.dropped"] = "output.suggestion.dropped"
    content: DroppedSuggestion
