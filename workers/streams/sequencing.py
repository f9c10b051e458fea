"""Put the chunks of a stream into their order, and find those that do not arrive.

A chunk that arrives early waits for the earlier ones, up to `timeout_s` after it arrived or until MAX_PENDING_CHUNKS
wait. Then the missing ones are a gap: one event for each, however many chunks it has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from petiole.events.errors import UsageError
from petiole.workers.streams.audio_state import AudioState, PendingChunk
from petiole.workers.streams.pcm import SAMPLE_BYTES

MAX_PENDING_CHUNKS: Final = 64


@dataclass(frozen=True, slots=True)
class OrderedChunk:
    """A chunk in its place."""

    sequence: int
    data: bytes
    is_last: bool


@dataclass(frozen=True, slots=True)
class Gap:
    """Missing chunks."""

    first_sequence: int
    last_sequence: int


def add_chunk(state: AudioState, sequence: int, chunk: PendingChunk, now: float) -> str | None:
    """Add a chunk to those that wait; returns why it is ignored, if it is.

    A chunk is ignored if one of its number was handled or waits, or was counted as missing.
    Raises UsageError (audio_ended) for a chunk after the last one.
    """
    last = state.ended_by
    if last is None:
        last = next((number for number, pending in state.pending.items() if pending.is_last), None)
    if last is not None and sequence > last:
        raise audio_ended(last)
    if sequence < state.next_sequence or sequence in state.pending:
        return "late or double" if state.ended_by is None else "the audio has ended"
    state.next_chunk_at = now + len(chunk.data) / SAMPLE_BYTES / state.sample_rate
    state.pending[sequence] = chunk
    state.pending_since = now if state.pending_since is None else state.pending_since
    return None


def take_ordered(
    state: AudioState, now: float, timeout_s: float, *, is_final: bool = False
) -> Iterator[OrderedChunk | Gap]:
    """Take the chunks that are next, and the gaps before those that waited for too long; all if it is `is_final`."""
    while state.pending:
        if chunk := state.pending.pop(state.next_sequence, None):
            sequence, state.next_sequence = state.next_sequence, state.next_sequence + 1
            state.pending_since = now if state.pending else None
            if chunk.is_last:
                state.ended_by = sequence
            yield OrderedChunk(sequence, chunk.data, chunk.is_last)
        elif is_final or len(state.pending) > MAX_PENDING_CHUNKS or _has_waited(state, now, timeout_s):
            first, state.next_sequence = state.next_sequence, min(state.pending)
            samples = len(state.pending[state.next_sequence].data) // SAMPLE_BYTES
            state.missing_ms += (state.next_sequence - first) * samples * 1_000 // state.sample_rate
            yield Gap(first, state.next_sequence - 1)
        else:
            return


def _has_waited(state: AudioState, now: float, timeout_s: float) -> bool:
    return state.pending_since is not None and now - state.pending_since >= timeout_s


def audio_ended(last: int) -> UsageError:
    """Build the error for a chunk after the one with the end flag."""
    return UsageError(
        f"the audio of the stream ended with chunk {last}, whose `is_last` is set; start a new stream for more audio",
        code="audio_ended",
    )
