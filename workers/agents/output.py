"""Output: formats answers for their channels and sends them, once per channel.

An unavailable channel is retried by the delivery's retry policy; after the last attempt `output.message.failed` is
published. A retry skips channels that already sent the message: each send is recorded, unless the channel itself drops
duplicates by message id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from petiole.events.catalog.input import TextMessageEvent
from petiole.events.catalog.llm import ResponseGeneratedEvent
from petiole.events.catalog.orchestrator import ResponseReadyEvent
from petiole.events.catalog.output import (
    DeliveryFailure,
    DroppedSuggestion,
    FormattedMessage,
    FormattingCompletedEvent,
    MessageFailedEvent,
    MessageKind,
    MessageSentEvent,
    SentMessage,
    SuggestionDroppedEvent,
)
from petiole.events.catalog.proactive import InterventionNeededEvent, ProactiveSuggestionEvent
from petiole.events.errors import Permanent, PetioleError, ProviderUnavailable, RetryLater, error_type_of
from petiole.events.event import Event
from petiole.events.ids import derived_event_id
from petiole.events.texts import error_text
from petiole.tasks import Agent, Context, RetryPolicy, idempotent, later, publish
from petiole.workers.channels import OutputChannel, open_channels
from petiole.workers.channels.webhook import open_webhook
from petiole.workers.settings import WorkerSettings
from petiole.workers.state import team_state

agent = Agent("output")

CHANNEL_RETRY_POLICY = RetryPolicy(max_attempts=3)

SUGGESTION_CHECK_INTERVAL: Final = timedelta(seconds=1)
MAX_SUGGESTION_DELAY: Final = timedelta(minutes=5)
"""How long a suggestion waits for the answer to the message that led to it."""

DROPPED_SUGGESTIONS_COUNTER = "suggestions_dropped"
"""Counts suggestions that were dropped because their session had ended."""


@agent.on_start
def check_channels() -> None:
    """Open the webhook before the first message. Raises UsageError (missing_extra), NotConfigured."""
    open_webhook()


@agent.on("orchestrator.response.ready", "proactive.suggestion.ready", retry=CHANNEL_RETRY_POLICY)
def deliver_message(event: ResponseReadyEvent | ProactiveSuggestionEvent, context: Context) -> object:
    """Send an answer or a suggestion to each of its channels; a suggestion not before the answer to its message.

    Raises the first channel error that must be retried, after publishing the events of the other channels.
    """
    if isinstance(event, ResponseReadyEvent):
        message = OutgoingMessage(event.content.text, "answer", event.stream_id, event.content.channel)
        return send_to_channels(event, message, context)
    if context.session.has_ended:
        context.bus.stores.counters.add(DROPPED_SUGGESTIONS_COUNTER)
        return [build_suggestion_dropped(event)]
    age = context.bus.now() - event.timestamp
    if age < MAX_SUGGESTION_DELAY and awaits_answer(context.flow()):
        return later(SUGGESTION_CHECK_INTERVAL)
    return send_to_channels(event, OutgoingMessage(event.content.text, "suggestion", event.stream_id), context)


@agent.on("proactive.intervention.needed", retry=CHANNEL_RETRY_POLICY)
def call_operator(event: InterventionNeededEvent, context: Context) -> list[Event]:
    """Send a call for a person to the operators' stream, by every channel. Raises as `deliver_message`."""
    user = event.context.user_id or "a user without a name"
    text = f"{user} in stream {event.stream_id} may need help: {event.content.reason}"
    return send_to_channels(event, OutgoingMessage(text, "intervention", WorkerSettings().operator_stream), context)


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message before it is formatted; `channel` is the only one to use, or None."""

    text: str
    kind: MessageKind
    stream_id: str
    channel: str | None = None


def awaits_answer(flow: Sequence[Event]) -> bool:
    """Return whether a flow has a user's message that was neither answered nor interrupted."""
    return any(isinstance(event, TextMessageEvent) for event in flow) and not any(map(_ends_turn, flow))


def _ends_turn(event: Event) -> bool:
    match event:
        case MessageSentEvent() | MessageFailedEvent():
            return event.content.kind == "answer"
        case ResponseGeneratedEvent():
            return event.content.finish_reason == "interrupted"
    return False


def send_to_channels(event: Event, message: OutgoingMessage, context: Context) -> list[Event]:
    """Send a message to each of its channels, once. Raises the first channel error that must be retried."""
    events: list[Event] = []
    failures: list[PetioleError] = []
    channels = open_channels(team_state(context.bus).outbound_messages.append)
    for channel in select_channels(channels, message.channel):
        formatted = replace(message, text=channel.format(message.text))
        events.append(build_formatting_completed(event, channel, context.idempotency_key, formatted.text))
        try:
            events.append(send_once(event, channel, context.idempotency_key, formatted))
        except (ProviderUnavailable, RetryLater, Permanent) as error:
            if is_final_failure(error, context.attempt):
                events.append(build_message_failed(event, channel, context.idempotency_key, formatted, error))
            else:
                failures.append(error)
    if failures:
        for completed in events:
            publish(completed, now=True)
        raise failures[0]
    return events


def select_channels(channels: Sequence[OutputChannel], requested: str | None) -> list[OutputChannel]:
    """Select the requested channel, or all. The mailbox is always selected."""
    return [channel for channel in channels if requested in (None, channel.name) or channel.name == "mailbox"]


def is_final_failure(error: PetioleError, attempt: int) -> bool:
    """Return whether a channel's error in this attempt (counted from 1) is not retried."""
    if isinstance(error, RetryLater):
        return False
    return isinstance(error, Permanent) or attempt >= CHANNEL_RETRY_POLICY.max_attempts


def send_once(event: Event, channel: OutputChannel, message_id: str, message: OutgoingMessage) -> MessageSentEvent:
    """Send a formatted message, unless it was sent before.

    Raises OperationOutcomeUnknown, and any error of the channel.
    """
    send = channel.send
    if channel.on_duplicate != "harmless":
        send = idempotent(
            key=lambda *_: f"{message_id} {channel.name}",
            name="output.send",
            on_unfinished="repeat" if channel.on_duplicate == "known" else "raise",
        )(send)
    send(message.stream_id, message_id, message.text)
    content = SentMessage(text=message.text, channel=channel.name, message_id=message_id, kind=message.kind)
    return event.caused(MessageSentEvent, event_id=message_event_id(message_id, channel, "sent"), content=content)


def build_formatting_completed(
    event: Event, channel: OutputChannel, message_id: str, text: str
) -> FormattingCompletedEvent:
    """Build the event for an answer that was formatted for a channel."""
    content = FormattedMessage(text=text, channel=channel.name)
    return event.caused(
        FormattingCompletedEvent, event_id=message_event_id(message_id, channel, "formatted"), content=content
    )


def build_message_failed(
    event: Event, channel: OutputChannel, message_id: str, message: OutgoingMessage, error: Exception
) -> MessageFailedEvent:
    """Build the event for a message that a channel failed to send for good."""
    content = DeliveryFailure(
        text=message.text,
        channel=channel.name,
        kind=message.kind,
        error_type=error_type_of(error),
        error=error_text(error),
    )
    return event.caused(MessageFailedEvent, event_id=message_event_id(message_id, channel, "failed"), content=content)


def build_suggestion_dropped(event: ProactiveSuggestionEvent) -> SuggestionDroppedEvent:
    """Build the event for a suggestion whose session has ended."""
    content = DroppedSuggestion(
        text=event.content.text, cooldown_key=event.content.cooldown_key, reason="the session has ended"
    )
    return event.caused(SuggestionDroppedEvent, content=content)


def message_event_id(message_id: str, channel: OutputChannel, step: str) -> str:
    """Derive the event id of a step from message and channel, so that several attempts publish it once."""
    return derived_event_id(message_id, channel.name, step)
