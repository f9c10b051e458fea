"""Send a recording, or what a microphone hears, as the audio of a stream, and follow the events that it causes."""

from __future__ import annotations

import json
import time
import wave
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from petiole.events.content import AudioContent
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.history import RecordedEvent
from petiole.workers.agents.input import publish_audio
from petiole.workers.state import team_state
from petiole.workers.streams.pcm import SAMPLE_BYTES

CHUNK_MS = 100
TRAILING_SILENCE_MS = 1_500
"""Sent after a recording, because it may end with its last word. It is longer than the default pause of a turn."""

ANSWER_AUDIO = "output.audio.chunk"
_POLL_MS = 200
_ANSWERED = {"output.message.sent", "output.message.failed"}
_SHOWN = {
    "stream.transcription.updated": "hears",
    "input.message.received": "heard",
    "output.message.sent": "petiole",
    "stream.gap.detected": "gap",
    "output.speech.interrupted": "stopped",
}


@dataclass
class Recording:
    """Audio, its stream, and what has come of it so far.

    `speed` is 1 for real time, and infinite for a microphone, whose chunks come in real time. `answer_chunks` has the
    audio of the answers.
    """

    bus: BusRuntime
    chunks: Iterable[AudioContent]
    stream_id: str
    user_id: str
    speed: float = 1.0
    channel: str = "recording"
    answer_chunks: list[AudioContent] = field(default_factory=list)
    messages: int = 0
    _entry_id: str = ""
    _read_ids: set[str] = field(default_factory=set)
    _unfinished: int = 0
    _unanswered: int = 0

    def follow(self, timeout_s: float) -> Iterator[RecordedEvent]:
        """Send the audio and yield the stream's events; ends when all is answered, or `timeout_s` after the last chunk.

        Raises: UsageError, BrokerUnavailable, OSError.
        """
        self._entry_id = self.bus.stores.history.last_entry_id()
        started, sent_ms = time.monotonic(), 0
        for content in with_trailing_silence(self.chunks):
            while (early_s := started + sent_ms / 1_000 / self.speed - time.monotonic()) > 0:
                yield from self._read(max(1, int(early_s * 1_000)))
            yield from self._read(1)
            # The stream may have audio of an earlier recording.
            sequence = team_state(self.bus).audio_streams.take_sequence(self.stream_id)
            numbered = content.model_copy(update={"sequence": sequence})
            publish_audio(numbered, stream_id=self.stream_id, user_id=self.user_id, channel=self.channel)
            sent_ms += content.duration_ms
        deadline = time.monotonic() + timeout_s
        while not self.is_answered and time.monotonic() < deadline:
            yield from self._read(_POLL_MS)

    @property
    def is_answered(self) -> bool:
        """Whether all audio was heard, and every message in it was answered."""
        state = team_state(self.bus).audio_streams.read(self.stream_id)
        # The state is stored before the events of the same delivery are published.
        is_heard = state.ended_by is not None and self._read_ids.issuperset(map(_id_of, state.last_events))
        return is_heard and self._unfinished <= 0 and self._unanswered <= 0

    def follow_answer(self, timeout_s: float) -> Iterator[RecordedEvent]:
        """Yield the stream's events until the last chunk of a spoken answer, for at most `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not (self.answer_chunks and self.answer_chunks[-1].is_last) and time.monotonic() < deadline:
            yield from self._read(_POLL_MS)

    def _read(self, block_ms: int) -> Iterator[RecordedEvent]:
        for recorded in self.bus.stores.history.read_after(self._entry_id, block_ms=block_ms):
            self._entry_id = recorded.entry_id
            if recorded.attributes["stream_id"] == self.stream_id:
                self._count(recorded)
                yield recorded

    def _count(self, recorded: RecordedEvent) -> None:
        content = content_of(recorded)
        self._read_ids.add(str(recorded.attributes["event_id"]))
        self.messages += recorded.topic == "input.message.received"
        self._unanswered += recorded.topic == "input.message.received"
        self._unanswered -= recorded.topic in _ANSWERED
        self._unfinished += recorded.topic == "stream.speech.captured" and bool(content.get("is_complete"))
        self._unfinished -= recorded.topic == "stream.utterance.completed"
        if recorded.topic == ANSWER_AUDIO:
            self.answer_chunks.append(AudioContent.model_validate(content))


def _id_of(event_json: str) -> str:
    return str(json.loads(event_json)["event_id"])


def with_trailing_silence(chunks: Iterable[AudioContent]) -> Iterator[AudioContent]:
    """Append silence to a recording; its last chunk ends the stream's audio."""
    for chunk in chunks:
        yield chunk.model_copy(update={"is_last": False})
        if chunk.is_last:
            data = bytes(chunk.sample_rate * TRAILING_SILENCE_MS // 1_000 * SAMPLE_BYTES * chunk.channels)
            update = {"data": data, "duration_ms": TRAILING_SILENCE_MS, "sequence": chunk.sequence + 1}
            yield chunk.model_copy(update=update)


def content_of(recorded: RecordedEvent) -> dict[str, object]:
    """Return the content of a recorded event."""
    content = recorded.document["content"]
    return dict(content) if isinstance(content, dict) else {}


def caption_event(recorded: RecordedEvent) -> tuple[str, str] | None:
    """Describe an event in a line: who or what, and the text; None for events that are not shown."""
    if recorded.topic not in _SHOWN:
        return None
    content = content_of(recorded)
    match recorded.topic:
        case "stream.gap.detected":
            text = f"chunks {content['first_sequence']} to {content['last_sequence']} are missing"
        case "output.speech.interrupted":
            text = f"after {content['heard_ms']} of {content['total_ms']} ms: {content['heard_text']}"
        case _:
            text = str(content["text"])
    return _SHOWN[recorded.topic], text


def write_wav(path: Path, chunks: list[AudioContent]) -> float:
    """Write mono chunks of one sample rate to a file; returns the seconds of audio."""
    data = b"".join(chunk.data for chunk in chunks)
    with wave.open(str(path), "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(SAMPLE_BYTES)
        written.setframerate(chunks[0].sample_rate)
        written.writeframes(data)
    return len(data) / SAMPLE_BYTES / chunks[0].sample_rate
