"""Speaking: speaks the answers in streams that have audio, until the user speaks.

    orchestrator.response.ready ──▶ synthesizer ──▶ output.audio.chunk, paced as it is played
                        stream.speech.started ──▶ stop, output.speech.interrupted with what was heard

The chunks of an answer are published LEAD_S before they are played, so that an interruption leaves little to discard: a
player that hears `stream.speech.started`, or `output.speech.interrupted`, empties its buffer. All ids derive from the
delivery: a second attempt goes through the answer from its start, and publishes no chunk twice.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from functools import cache

from petiole.events.catalog.orchestrator import ResponseReadyEvent
from petiole.events.catalog.output import AnswerAudioEvent, InterruptedSpeech, SpeechInterruptedEvent
from petiole.events.content import AudioContent
from petiole.events.ids import emitted_event_id
from petiole.tasks import Agent, Context, RetryPolicy, publish
from petiole.workers.settings import WorkerSettings
from petiole.workers.state import team_state
from petiole.workers.state.audio_streams import AudioStreams
from petiole.workers.streams.pcm import SAMPLE_BYTES
from petiole.workers.synthesis import Speech, Synthesizer, create_synthesizer

agent = Agent("speaking")

CHUNK_S = 0.1
LEAD_S = 0.2
POLL_S = 0.02
PROGRAMS = {"espeak_ng": "espeak-ng", "flite": "flite"}


def speak(event: ResponseReadyEvent, context: Context) -> SpeechInterruptedEvent | None:
    """Speak an answer, if its stream has audio. Raises ProviderUnavailable, NotConfigured, UsageError."""
    streams = team_state(context.bus).audio_streams
    if not streams.exists(event.stream_id):
        return None
    watch = InterruptionWatch(streams, event.stream_id)
    if watch.is_interrupted():
        return build_interrupted(event, 0.0, 1.0)
    speech = _cached_synthesizer(WorkerSettings().synthesizer).synthesize(event.content.text)
    total_s = len(speech.pcm) / SAMPLE_BYTES / speech.sample_rate
    started = time.monotonic()
    for content in cut_into_chunks(speech):
        played_at_s = content.sequence * CHUNK_S
        # Asked before each chunk, also where nothing is waited for: the synthesizer took its time.
        while not (is_interrupted := watch.is_interrupted()):
            if (waiting_s := played_at_s - LEAD_S - (time.monotonic() - started)) <= 0:
                break
            time.sleep(min(waiting_s, POLL_S))
        if is_interrupted:
            heard_s = time.monotonic() - started if content.sequence else 0.0
            return build_interrupted(event, min(heard_s, total_s), total_s)
        chunk_id = emitted_event_id(context.delivery_id, content.sequence)
        publish(event.caused(AnswerAudioEvent, event_id=chunk_id, content=content), now=True)
    while (heard_s := time.monotonic() - started) < total_s:
        if watch.is_interrupted():
            return build_interrupted(event, heard_s, total_s)
        time.sleep(POLL_S)
    return None


class InterruptionWatch:
    """Finds out whether the user of a stream speaks, or has spoken since the watch began."""

    def __init__(self, streams: AudioStreams, stream_id: str) -> None:
        self._streams = streams
        self._stream_id = stream_id
        self._starts, _ = streams.read_speech(stream_id)

    def is_interrupted(self) -> bool:
        """Return whether speech lasts, or has started."""
        starts, lasts = self._streams.read_speech(self._stream_id)
        return lasts or starts > self._starts


def cut_into_chunks(speech: Speech) -> Iterator[AudioContent]:
    """Cut speech into chunks, the last with `is_last`."""
    size = SAMPLE_BYTES * int(speech.sample_rate * CHUNK_S)
    for sequence, start in enumerate(range(0, len(speech.pcm), size)):
        data = speech.pcm[start : start + size]
        yield AudioContent(
            data=data,
            duration_ms=max(1, round(len(data) / SAMPLE_BYTES * 1_000 / speech.sample_rate)),
            sample_rate=speech.sample_rate,
            sequence=sequence,
            is_last=start + size >= len(speech.pcm),
        )


def build_interrupted(answer: ResponseReadyEvent, heard_s: float, total_s: float) -> SpeechInterruptedEvent:
    """Build the event for an interruption. The text that was heard is estimated: the same share of the words."""
    words = answer.content.text.split()
    content = InterruptedSpeech(
        text=answer.content.text,
        heard_text=" ".join(words[: int(len(words) * heard_s / total_s)]),
        heard_ms=round(heard_s * 1_000),
        total_ms=round(total_s * 1_000),
    )
    return answer.caused(SpeechInterruptedEvent, content=content)


@cache
def _cached_synthesizer(name: str) -> Synthesizer:
    return create_synthesizer(name)


@agent.on_include
def subscribe_speaking() -> None:
    """Subscribe, if the synthesizer's program is installed: without it, every answer would become a dead letter."""
    name = WorkerSettings().synthesizer
    if name not in PROGRAMS or shutil.which(PROGRAMS[name]):
        agent.on("orchestrator.response.ready", retry=RetryPolicy(max_attempts=2))(speak)
