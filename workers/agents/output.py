"""Output: shapes answers for their channels, and delivers them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from events.catalog.orchestrator import ResponseReadyEvent
from events.catalog.output import (
    DeliveryFailure,
    FormattedMessage,
    FormattingCompletedEvent,
    MessageFailedEvent,
    MessageSentEvent,
    SentMessage,
)
from events.catalog.proactive import ProactiveSuggestionEvent
from events.errors import ProviderUnavailable
from events.event import Event
from tasks import Agent, Context
from workers.channels import Channel, Mailbox, open_channels

agent = Agent("output")


@agent.on("orchestrator.response.ready", "proactive.suggestion.ready")
def deliver(event: ResponseReadyEvent | ProactiveSuggestionEvent, context: Context) -> Iterator[Event]:
    """Deliver an answer or a suggestion by every channel it is for."""
    for channel in addressed(open_channels(context.replies.append), wanted_channel(event)):
        text = channel.format(event.content.text)
        yield event.caused(FormattingCompletedEvent, content=FormattedMessage(text=text, channel=channel.name))
        yield send(event, channel, context.idempotency_key, text)


def wanted_channel(event: ResponseReadyEvent | ProactiveSuggestionEvent) -> str | None:
    """Read which channel an answer names; None where it is for all."""
    return event.content.channel if isinstance(event, ResponseReadyEvent) else None


def addressed(channels: Sequence[Channel], wanted: str | None) -> list[Channel]:
    """Choose the channels of an answer: the one it names, or all; the mailbox takes every answer."""
    return [channel for channel in channels if wanted in (None, channel.name) or isinstance(channel, Mailbox)]


def send(event: Event, channel: Channel, message_id: str, text: str) -> MessageSentEvent | MessageFailedEvent:
    """Send a formatted answer, and word what became of it."""
    try:
        channel.send(event.stream_id, message_id, text)
    except ProviderUnavailable as error:
        failure = DeliveryFailure(text=text, channel=channel.name, error_type=type(error).__name__, error=str(error))
        return event.caused(MessageFailedEvent, content=failure)
    return event.caused(MessageSentEvent, content=SentMessage(text=text, channel=channel.name, message_id=message_id))
