"""Find speech, pauses and the ends of turns in the frames of a stream.

    frame ── speech ──▶ started ── HANG_OVER_FRAMES of silence ──▶ stopped ── the turn detector agrees ──▶ captured
                          ▲                                          │
                          └───────────── speech again ───────────────┘

An utterance begins PRE_ROLL_FRAMES before its first frame with speech, so that its first sound is not cut off. It ends
with its turn, after MAX_UTTERANCE_FRAMES, or with the stream. Interim transcriptions are requested while it lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from petiole.workers.streams.audio_state import FRAME_BYTES, FRAME_MS, AudioState

SPEECH_PROBABILITY, SILENCE_PROBABILITY = 0.5, 0.35
PRE_ROLL_FRAMES: Final = 10
HANG_OVER_FRAMES: Final = 10
MAX_UTTERANCE_FRAMES: Final = 30_000 // FRAME_MS
INTERIM_FRAMES: Final = 1_500 // FRAME_MS

IsTurnOver: TypeAlias = Callable[[AudioState], bool]
"""Whether the pause of an utterance, `state.silent_frames` long, ends the turn."""


@dataclass(frozen=True, slots=True)
class SpeechSignal:
    """Something that was found at the end of a frame. For `captured` and `interim`, the utterance is [start, frame)."""

    kind: Literal["started", "stopped", "interim", "captured"]
    frame: int
    start: int = 0
    first_sequence: int = 0


def take_frames(state: AudioState, audio: bytes) -> bytes:
    """Return the whole frames of PCM at 16 kHz, which follows what was heard before; the rest waits for more."""
    audio = bytes.fromhex(state.remainder) + audio
    whole = len(audio) - len(audio) % FRAME_BYTES
    state.remainder = audio[whole:].hex()
    return audio[:whole]


def hear(state: AudioState, probabilities: Iterable[float], is_turn_over: IsTurnOver) -> Iterator[SpeechSignal]:
    """Hear the next frames, by their probabilities of speech."""
    for probability in probabilities:
        state.frames += 1
        if state.speech_start is None:
            yield from _wait_for_speech(state, probability)
        else:
            yield from _follow_speech(state, probability, is_turn_over)


def end_utterance(state: AudioState) -> Iterator[SpeechSignal]:
    """End the utterance, if there is one: its turn, or the stream, has ended."""
    if state.speech_start is None:
        return
    if state.is_speaking:
        yield SpeechSignal("stopped", state.frames)
    yield SpeechSignal("captured", state.frames, state.speech_start, state.first_sequence)
    state.speech_start, state.is_speaking, state.silent_frames = None, False, 0


def _wait_for_speech(state: AudioState, probability: float) -> Iterator[SpeechSignal]:
    if probability < SPEECH_PROBABILITY:
        return
    earliest = -(-state.buffer_start * 1_000 // (FRAME_MS * state.sample_rate))
    state.speech_start = max(state.frames - 1 - PRE_ROLL_FRAMES, earliest, 0)
    state.speech_start_ms = state.time_of_frame(state.speech_start)
    start = state.sample_of_frame(state.speech_start)
    state.first_sequence = next((mark.sequence for mark in state.marks if mark.end > start), state.next_sequence - 1)
    state.is_speaking, state.silent_frames, state.interim_frames = True, 0, state.frames
    state.speech_starts += 1
    yield SpeechSignal("started", state.frames - 1)


def _follow_speech(state: AudioState, probability: float, is_turn_over: IsTurnOver) -> Iterator[SpeechSignal]:
    start = state.speech_start or 0
    is_speech = probability >= (SILENCE_PROBABILITY if state.is_speaking else SPEECH_PROBABILITY)
    state.silent_frames = 0 if is_speech else state.silent_frames + 1
    if is_speech and not state.is_speaking:
        state.is_speaking = True
        state.speech_starts += 1
        yield SpeechSignal("started", state.frames - 1)
    elif state.is_speaking and state.silent_frames >= HANG_OVER_FRAMES:
        state.is_speaking = False
        yield SpeechSignal("stopped", state.frames - state.silent_frames)
    if state.frames - start >= MAX_UTTERANCE_FRAMES or (not state.is_speaking and is_turn_over(state)):
        yield from end_utterance(state)
    elif state.is_speaking and state.frames - state.interim_frames >= INTERIM_FRAMES:
        state.interim_frames = state.frames
        yield SpeechSignal("interim", state.frames, start, state.first_sequence)
