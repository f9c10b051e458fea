"""Input: the door by which messages come in. It hears nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from events.catalog.input import StreamStarted, StreamStartedEvent, TextMessageEvent
from events.content import TextContent
from events.event import Event, EventContext
from tasks import Agent, open_stream, publish

Publish: TypeAlias = Callable[[Event], object]

agent = Agent("input")


def receive(
    text: str,
    *,
    stream_id: str,
    user_id: str | None = None,
    channel: str = "terminal",
    source: str = "petiole",
    publish: Publish = publish,
) -> TextMessageEvent:
    """Publish a message that came in by `channel`; the first of its stream also says that the stream began.

    `publish` may be `publish.delay`, which leaves the fan-out to a worker. Raises what it raises, and
    pydantic's ValidationError for an empty text or stream; then nothing was published.
    """
    message = TextMessageEvent(
        stream_id=stream_id,
        content=TextContent(text=text),
        context=EventContext(source=source, user_id=user_id, session_id=stream_id),
    )
    if open_stream(stream_id):
        publish(stream_started(message, channel))
    publish(message)
    return message


def stream_started(message: TextMessageEvent, channel: str) -> StreamStartedEvent:
    """Word the beginning of the stream that a first message opens; it is a flow of its own."""
    return StreamStartedEvent(
        stream_id=message.stream_id,
        timestamp=message.timestamp,
        content=StreamStarted(channel=channel),
        context=message.context,
    )
