"""Input: the door by which messages come in. It hears nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from petiole.events.catalog.input import TextMessageEvent
from petiole.events.catalog.session import StreamStarted, StreamStartedEvent
from petiole.events.content import TextContent
from petiole.events.event import Event, EventContext
from petiole.tasks import Agent, SessionFacts, begin_session, enter_session, publish, told_id

Publish: TypeAlias = Callable[[Event], object]

agent = Agent("input")


def receive(
    text: str,
    *,
    stream_id: str,
    user_id: str | None = None,
    channel: str = "terminal",
    source: str = "petiole",
    session_type: str = "chat",
    publish: Publish = publish,
) -> TextMessageEvent:
    """Publish a message that came in by `channel`, into the session of its stream.

    The first of its stream also says that the stream began; `session_type` (chat, meeting or call) is the first's.
    `publish` may be `publish.delay`, which leaves the fan-out to a worker. Raises what it raises, SessionEnded for a
    stream that is over, and pydantic's ValidationError for an empty text or stream, or another type of session; then
    nothing was published.
    """
    message = TextMessageEvent(
        stream_id=stream_id,
        content=TextContent(text=text),
        context=EventContext(source=source, user_id=user_id, session_id=stream_id),
    )
    session = enter_session(message, session_type=session_type)
    if session.state == "new":
        publish(stream_started(message, channel, session))
        begin_session(session)
    publish(message)
    return message


def stream_started(message: TextMessageEvent, channel: str, session: SessionFacts) -> StreamStartedEvent:
    """Word the beginning of the stream that a first message opens; it is a flow of its own.

    Its id follows from the session: of all first messages that say so at once, one is heard.
    """
    return StreamStartedEvent(
        event_id=told_id(session, "started"),
        stream_id=message.stream_id,
        timestamp=session.created_at,
        content=StreamStarted(channel=channel, session_type=session.session_type),
        context=message.context,
    )
