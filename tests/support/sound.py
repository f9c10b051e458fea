"""Sound for tests: a recording, tones, chunks, and a detector of speech that hears loudness."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from petiole.events import AudioChunkEvent, AudioContent
from petiole.tasks.runtime import BusRuntime
from petiole.workers.state import team_state
from petiole.workers.streams.wav import read_wav
from petiole.workers.synthesis import Speech

RATE = 16_000
RECORDING = Path(__file__).resolve().parents[2] / "workers/streams/recordings/hello.wav"
RECORDED_WORDS = "hello can you help me please"


def tone(milliseconds: int, rate: int = RATE) -> bytes:
    """Make a tone, which the loudness detector takes for speech."""
    samples = range(rate * milliseconds // 1_000)
    return b"".join(struct.pack("<h", int(12_000 * math.sin(sample * 0.3))) for sample in samples)


def silence(milliseconds: int, rate: int = RATE) -> bytes:
    return bytes(2 * (rate * milliseconds // 1_000))


def chunk_up(
    pcm: bytes, chunk_ms: int = 100, *, rate: int = RATE, first: int = 0, ends: bool = False
) -> list[AudioContent]:
    """Cut PCM into chunks."""
    size = 2 * rate * chunk_ms // 1_000
    pieces = [pcm[start : start + size] for start in range(0, len(pcm), size)]
    return [
        AudioContent(
            data=piece,
            duration_ms=round(len(piece) / 2 * 1_000 / rate),
            sample_rate=rate,
            sequence=first + index,
            is_last=ends and index == len(pieces) - 1,
        )
        for index, piece in enumerate(pieces)
    ]


def recorded(chunk_ms: int = 100, *, silence_ms: int = 0, ends: bool = True) -> list[AudioContent]:
    """Read the chunks of the recording, with silence after it."""
    chunks = list(read_wav(RECORDING, chunk_ms))
    pcm = b"".join(chunk.data for chunk in chunks) + silence(silence_ms)
    return chunk_up(pcm, chunk_ms, ends=ends)


def events_of(chunks: Iterable[AudioContent], stream_id: str = "s") -> list[AudioChunkEvent]:
    return [AudioChunkEvent(stream_id=stream_id, content=chunk) for chunk in chunks]


def begin_speech(bus: BusRuntime, stream_id: str) -> None:
    """Note that the user of a stream speaks, as a worker with `listening` does."""
    streams = team_state(bus).audio_streams
    state = streams.read(stream_id)
    state.speech_starts, state.is_speaking = state.speech_starts + 1, True
    assert streams.save(stream_id, state, pcm=b"", dropped_samples=0)


class LoudnessDetector:
    """Takes what is loud for speech."""

    def process_chunk(self, audio: bytes, /) -> float:
        samples: Sequence[int] = struct.unpack(f"<{len(audio) // 2}h", audio)
        return float(max(map(abs, samples)) > 1_000)


class Numbering:
    """A transcriber that counts the utterances and says how long each is."""

    name = "numbering"

    def transcribe(self, pcm: bytes) -> str:
        return f"speech of {len(pcm) // 32} ms" if any(pcm) else ""


class Humming:
    """A synthesizer that hums for a quarter of a second a word."""

    name = "humming"

    def synthesize(self, text: str) -> Speech:
        return Speech(tone(250 * len(text.split())), RATE)
