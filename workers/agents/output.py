"""Output: shapes answers for their channels, and delivers them, by each channel once.

A channel that is down is tried again by the delivery's policy, and `output.message.failed` follows once the last
attempt has failed. Channels that had the message meanwhile are not asked again: what was sent by each is recorded, and
a channel in which a message stands once by its id needs no record.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import NAMESPACE_URL, uuid5

from petiole.events.catalog.orchestrator import ResponseReadyEvent
from petiole.events.catalog.output import (
    DeliveryFailure,
    DroppedSuggestion,
    FormattedMessage,
    FormattingCompletedEvent,
    MessageFailedEvent,
    MessageSentEvent,
    SentMessage,
    SuggestionDroppedEvent,
)
from petiole.events.catalog.proactive import ProactiveSuggestionEvent
from petiole.events.errors import Permanent, PetioleError, ProviderUnavailable, RetryLater, error_type_of
from petiole.events.event import Event
from petiole.tasks import Agent, Context, RetryPolicy, idempotent, publish
from petiole.workers.channels import Channel, open_channels
from petiole.workers.state import team_state

agent = Agent("output")

RETRY = RetryPolicy(max_attempts=3)

DROPPED = "suggestions_dropped"
"""The counter of suggestions that came for a session that had ended."""


@agent.on("orchestrator.response.ready", "proactive.suggestion.ready", retry=RETRY)
def deliver(event: ResponseReadyEvent | ProactiveSuggestionEvent, context: Context) -> list[Event]:
    """Deliver an answer or a suggestion by every channel it is for.

    Raises what a channel raised that is to be tried again; what was delivered by others is published then all the same.
    """
    if isinstance(event, ProactiveSuggestionEvent) and context.session.has_ended:
        context.bus.stores.counters.add(DROPPED)
        return [dropped(event)]
    told: list[Event] = []
    failures: list[PetioleError] = []
    for channel in addressed(open_channels(team_state(context.bus).replies.append), wanted_channel(event)):
        text = channel.format(event.content.text)
        told.append(formatted(event, channel, context.idempotency_key, text))
        try:
            told.append(send(event, channel, context.idempotency_key, text))
        except (ProviderUnavailable, RetryLater, Permanent) as error:
            if is_over(error, context.attempt):
                told.append(failed(event, channel, context.idempotency_key, text, error))
            else:
                failures.append(error)
    if failures:
        for each in told:
            publish(each, now=True)
        raise failures[0]
    return told


def wanted_channel(event: ResponseReadyEvent | ProactiveSuggestionEvent) -> str | None:
    """Read which channel an answer names; None where it is for all."""
    return event.content.channel if isinstance(event, ResponseReadyEvent) else None


def addressed(channels: Sequence[Channel], wanted: str | None) -> list[Channel]:
    """Choose the channels of an answer: the one it names, or all; the mailbox takes every answer."""
    return [channel for channel in channels if wanted in (None, channel.name) or channel.name == "mailbox"]


def is_over(error: PetioleError, attempt: int) -> bool:
    """Tell whether a channel that failed in the attempt of that number (from 1) is tried no more."""
    if isinstance(error, RetryLater):
        return False
    return isinstance(error, Permanent) or attempt >= RETRY.max_attempts


def send(event: Event, channel: Channel, message_id: str, text: str) -> MessageSentEvent:
    """Send a formatted answer, unless it was sent before.

    Raises what the channel raises, and OperationOutcomeUnknown.
    """
    act = channel.send
    if channel.repetition != "harmless":
        act = idempotent(
            key=lambda *_: f"{message_id} {channel.name}",
            name="output.send",
            on_unfinished="repeat" if channel.repetition == "known" else "raise",
        )(act)
    act(event.stream_id, message_id, text)
    content = SentMessage(text=text, channel=channel.name, message_id=message_id)
    return event.caused(MessageSentEvent, event_id=said_once(message_id, channel, "sent"), content=content)


def formatted(event: Event, channel: Channel, message_id: str, text: str) -> FormattingCompletedEvent:
    """Word that an answer has its channel's form."""
    content = FormattedMessage(text=text, channel=channel.name)
    return event.caused(FormattingCompletedEvent, event_id=said_once(message_id, channel, "formatted"), content=content)


def failed(event: Event, channel: Channel, message_id: str, text: str, error: Exception) -> MessageFailedEvent:
    """Word that a channel did not take an answer, and never will."""
    content = DeliveryFailure(text=text, channel=channel.name, error_type=error_type_of(error), error=str(error))
    return event.caused(MessageFailedEvent, event_id=said_once(message_id, channel, "failed"), content=content)


def dropped(event: ProactiveSuggestionEvent) -> SuggestionDroppedEvent:
    """Word that a suggestion came for a conversation that is over."""
    content = DroppedSuggestion(
        text=event.content.text, cooldown_key=event.content.cooldown_key, reason="the session has ended"
    )
    return event.caused(SuggestionDroppedEvent, content=content)


def said_once(message_id: str, channel: Channel, step: str) -> str:
    """Name what is said of a message and a channel: in several attempts at one delivery, it is said once."""
    return str(uuid5(NAMESPACE_URL, repr((message_id, channel.name, step))))
