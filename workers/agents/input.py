"""Input: publishes messages, audio and video from users, in the sessions of their streams.

Entered by `publish_message`, `publish_audio` and `publish_frame`; this agent has no subscriptions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from petiole.events.catalog.input import AudioChunkEvent, InputEvent, TextMessageEvent, VideoFrameEvent
from petiole.events.catalog.session import StreamStarted, StreamStartedEvent
from petiole.events.content import AudioContent, TextContent, VideoContent
from petiole.events.event import Event, EventContext
from petiole.events.ids import new_event_id
from petiole.tasks import Agent, SessionInfo, mark_session_started, publish, record_session_event, session_event_id
from petiole.tasks.handling.current import current_bus
from petiole.workers.state import team_state
from petiole.workers.streams.pcm import check_audio
from petiole.workers.streams.sequencing import audio_ended

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

PublishFunction: TypeAlias = Callable[[Event], object]
MediaContent = TypeVar("MediaContent", AudioContent, VideoContent)

FRAME_EXPIRES_AFTER = timedelta(minutes=1)
"""Under load the newest frames count. The picture of a frame is not kept much longer (tasks/stores/blobs.py)."""

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
    extra: Mapping[str, str] | None = None,
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
        extra: More fields of the context of the flow.
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
        context=EventContext(source=source, user_id=user_id, session_id=stream_id, extra=dict(extra or {})),
    )
    publish_in_session(message, channel=channel, session_type=session_type, publish=publish, bus=bus)
    return message


def publish_audio(
    content: AudioContent,
    *,
    stream_id: str,
    user_id: str | None = None,
    channel: str = "voice",
    source: str = "petiole",
    publish: PublishFunction = publish,
    bus: BusRuntime | None = None,
) -> AudioChunkEvent:
    """Publish a chunk of a user's audio. The chunk with `is_last` ends the audio of the stream; the session stays.

    Args are those of `publish_message`. A new session is a call. A content without `sequence` gets the next number of
    its stream; a sender numbers all chunks of a stream or none.

    Raises:
        InvalidEvent: The audio cannot be heard; the error names the field.
        UsageError: (audio_ended) the audio of the stream has ended.
        SessionEnded: The session of the stream has ended.
        Exception: Any error of `publish`.
    """
    check_audio(content)
    streams = team_state(current_bus(bus)).audio_streams
    content = number_content(content, stream_id, streams.take_sequence)
    last = streams.announced_last(stream_id)
    # Earlier chunks may arrive after the last one, until that one is heard.
    if last is not None and (content.sequence > last or streams.read(stream_id).ended_by is not None):
        raise audio_ended(last)
    context = EventContext(source=source, user_id=user_id, session_id=stream_id)
    chunk = AudioChunkEvent(stream_id=stream_id, content=content, context=context)
    publish_in_session(chunk, channel=channel, session_type="call", publish=publish, bus=bus)
    if content.is_last:
        streams.announce_last(stream_id, content.sequence)
    return chunk


def publish_frame(
    content: VideoContent,
    *,
    stream_id: str,
    user_id: str | None = None,
    channel: str = "video",
    source: str = "petiole",
    publish: PublishFunction = publish,
    bus: BusRuntime | None = None,
) -> VideoFrameEvent:
    """Publish a frame of a user's video. Arguments and errors are those of `publish_message`.

    A content without `sequence` gets the next number of its stream. A frame expires after FRAME_EXPIRES_AFTER.
    """
    content = number_content(content, stream_id, team_state(current_bus(bus)).scenes.take_sequence)
    context = EventContext(source=source, user_id=user_id, session_id=stream_id)
    frame = VideoFrameEvent(stream_id=stream_id, content=content, context=context)
    frame = frame.copy_with_valid({"expires_at": frame.timestamp + FRAME_EXPIRES_AFTER})
    publish_in_session(frame, channel=channel, session_type="call", publish=publish, bus=bus)
    return frame


def number_content(content: MediaContent, stream_id: str, take_sequence: Callable[[str], int]) -> MediaContent:
    """Give a content without `sequence` the next number of its stream."""
    if "sequence" in content.model_fields_set:
        return content
    return content.model_copy(update={"sequence": take_sequence(stream_id)})


def publish_in_session(
    event: InputEvent, *, channel: str, session_type: str, publish: PublishFunction, bus: BusRuntime | None
) -> None:
    """Publish an event of a user; the first of its session also publishes that the session started."""
    session = record_session_event(event, session_type=session_type, bus=bus)
    if session.state == "new":
        publish(build_stream_started(event, channel, session))
        mark_session_started(session, bus=bus)
    publish(event)


def build_stream_started(message: InputEvent, channel: str, session: SessionInfo) -> StreamStartedEvent:
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
