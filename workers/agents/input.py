"""Input: publishes messages from users. Entered by `publish_message`; this agent has no subscriptions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from petiole.events.catalog.input import TextMessageEvent
from petiole.events.catalog.session import StreamStarted, StreamStartedEvent
from petiole.events.content import TextContent
from petiole.events.event import Event, EventContext
from petiole.events.ids import new_event_id
from petiole.tasks import Agent, SessionInfo, mark_session_started, publish, record_session_event, session_event_id

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

PublishFunction: TypeAlias = Callable[[Event], object]

agent = Agent("input")


def publish_message(
    text: str,
    *,
    stream_id: str,
    user_id: str | None = None,
    channel: str = "terminal",
    source: str = "petiole",
    session_type: str = "chat",
    event_id: str | None = None,
    publish: PublishFunction = publish,
    bus: BusRuntime | None = None,
) -> TextMessageEvent:
    """Publish a user's message in the session of its stream.

    The first message of a stream also publishes `StreamStartedEvent`.

    Args:
        text: The message.
        stream_id: The conversation.
        user_id: The user, if known.
        channel: The channel on which the message arrived.
        source: The program that received the message.
        session_type: chat, meeting or call; only the first message of a stream sets it.
        event_id: The id of the message; by default a new one.
        publish: The function that publishes; `publish.delay` leaves routing to a worker.
        bus: The bus of the session; by default the current bus.

    Raises:
        SessionEnded: The session of the stream has ended.
        pydantic.ValidationError: The text or stream id is empty, or the session type is unknown.
        Exception: Any error of `publish`.
    """
    message = TextMessageEvent(
        event_id=event_id or new_event_id(),
        stream_id=stream_id,
        content=TextContent(text=text),
        context=EventContext(source=source, user_id=user_id, session_id=stream_id),
    )
    session = record_session_event(message, session_type=session_type, bus=bus)
    if session.state == "new":
        publish(build_stream_started(message, channel, session))
        mark_session_started(session, bus=bus)
    publish(message)
    return message


def build_stream_started(message: TextMessageEvent, channel: str, session: SessionInfo) -> StreamStartedEvent:
    """Build the event for a new stream. It starts a flow of its own.

    The event id is derived from the session, so concurrent first messages publish it once.
    """
    return StreamStartedEvent(
        event_id=session_event_id(session, "started"),
        stream_id=message.stream_id,
        timestamp=session.created_at,
        content=StreamStarted(channel=channel, session_type=session.session_type),
        context=message.context,
    )
