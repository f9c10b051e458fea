"""The audio of one stream while a chunk is handled: finds speech in it, and cuts utterances out of the PCM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from petiole.workers.streams.audio_state import FRAME_BYTES, FRAME_MS, AudioState, ChunkMark
from petiole.workers.streams.pcm import MODEL_SAMPLE_RATE, SAMPLE_BYTES, resample
from petiole.workers.streams.sequencing import Gap, OrderedChunk, take_ordered
from petiole.workers.streams.utterances import (
    PRE_ROLL_FRAMES,
    IsTurnOver,
    SpeechSignal,
    end_utterance,
    hear,
    take_frames,
)
from petiole.workers.streams.voice_activity import WARM_UP_FRAMES, VoiceActivity

KEPT_FRAMES: Final = PRE_ROLL_FRAMES + WARM_UP_FRAMES + 4
"""So much is kept of the audio before speech. Twice as much is there before it is cut down to that."""

ReadPcm: TypeAlias = Callable[[int, int], bytes]
"""Read stored samples [first, last) of the stream."""


@dataclass(slots=True)
class StreamAudio:
    """A stream's state and its PCM: what is stored, and what this delivery adds."""

    stream_id: str
    state: AudioState
    read_stored: ReadPcm
    detectors: VoiceActivity
    added: bytearray = field(default_factory=bytearray)
    stored_end: int = 0

    def __post_init__(self) -> None:
        self.stored_end = self.state.length

    def advance(
        self, now: float, timeout_s: float, is_turn_over: IsTurnOver, *, is_final: bool = False
    ) -> Iterator[Gap | tuple[SpeechSignal, int]]:
        """Hear the chunks that are next; yields gaps, and signals with the sequence number of their chunk."""
        for item in take_ordered(self.state, now, timeout_s, is_final=is_final):
            if isinstance(item, Gap):
                yield item
            else:
                yield from ((signal, item.sequence) for signal in self._hear(item, is_turn_over))

    def end_utterance(self) -> Iterator[tuple[SpeechSignal, int]]:
        """End the utterance, if there is one."""
        yield from ((signal, max(0, self.state.next_sequence - 1)) for signal in end_utterance(self.state))

    def read(self, first: int, last: int) -> bytes:
        """Read the samples [first, last) of the stream, as far as they are kept."""
        stored = self.read_stored(first, min(last, self.stored_end)) if first < self.stored_end else b""
        start, end = (max(0, place - self.stored_end) * SAMPLE_BYTES for place in (first, last))
        return stored + bytes(self.added[start:end])

    def drop_heard(self) -> int:
        """Forget the audio that no utterance needs; returns how many stored samples to drop."""
        state = self.state
        per_frame = FRAME_MS * state.sample_rate // 1_000
        excess = state.length - state.buffer_start - KEPT_FRAMES * per_frame
        if state.speech_start is not None or excess < KEPT_FRAMES * per_frame:
            return 0
        state.buffer_start += excess
        state.marks = [mark for mark in state.marks if mark.end > state.buffer_start]
        from_added = max(0, state.buffer_start - self.stored_end)
        del self.added[: from_added * SAMPLE_BYTES]
        return excess - from_added

    def _hear(self, chunk: OrderedChunk, is_turn_over: IsTurnOver) -> Iterator[SpeechSignal]:
        state = self.state
        state.length += len(chunk.data) // SAMPLE_BYTES
        self.added += chunk.data
        if state.speech_start is None:
            state.marks.append(ChunkMark(sequence=chunk.sequence, end=state.length))
        frames = take_frames(state, self._at_model_rate(chunk.data))
        yield from hear(state, self._probabilities(frames), is_turn_over)
        if chunk.is_last:
            yield from end_utterance(state)

    def _at_model_rate(self, data: bytes) -> bytes:
        # A chunk rarely has a whole number of samples at the other rate. Counted from the start of the stream, they
        # do not add up to a drift. A missing one repeats its neighbour.
        end, rate = self.state.length, self.state.sample_rate
        first, last = (place * MODEL_SAMPLE_RATE // rate for place in (end - len(data) // SAMPLE_BYTES, end))
        size, converted = (last - first) * SAMPLE_BYTES, resample(data, rate)
        return (converted + (converted[-SAMPLE_BYTES:] or bytes(SAMPLE_BYTES)) * (last - first))[:size]

    def _probabilities(self, frames: bytes) -> list[float]:
        if not frames:
            return []
        heard = self.state.frames
        found = self.detectors.hear(self.stream_id, heard, frames)
        if found is None:
            found = self.detectors.hear(self.stream_id, heard, frames, self._last_frames())
        return found or []

    def _last_frames(self) -> bytes:
        """Read the frames that a new detector hears again, whole ones only."""
        state = self.state
        first, last = (state.sample_of_frame(frame) for frame in (state.frames - WARM_UP_FRAMES, state.frames))
        heard = resample(self.read(max(0, first), last), state.sample_rate)
        return heard[len(heard) % FRAME_BYTES :]
