"""What is known of a stream's audio between two chunks: its place in the sequence, and its speech."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from petiole.events.content import EncodedBytes

FRAME_MS: Final = 32
FRAME_BYTES: Final = 1_024
"""One frame of the voice activity detector: 512 samples at 16 kHz."""


class PendingChunk(BaseModel):
    """A chunk that arrived before an earlier one: its mono PCM."""

    data: EncodedBytes
    is_last: bool


class ChunkMark(BaseModel):
    """Where a chunk ends in the stream, in samples at the stream's sample rate."""

    sequence: int
    end: int


class AudioState(BaseModel):
    """The audio of one stream after the last handled chunk.

    Attributes:
        revision: Counts the stored states.
        next_sequence: The chunk that follows.
        pending: Chunks after it that arrived before it.
        pending_since: When the oldest of them arrived, in seconds.
        next_chunk_at: When the chunk after the last one is due, in seconds: it takes as long as the last one.
        ended_by: The sequence number of the chunk with the end flag, once it was handled.
        length: Samples so far.
        missing_ms: How long the missing chunks so far are, if each is as long as the chunk after them.
        buffer_start: The sample with which the stored PCM starts.
        marks: The last chunks before speech.
        frames: Frames so far that the voice activity detector has heard.
        remainder: PCM at 16 kHz that fills no frame yet.
        speech_start: The first frame of the utterance, with pre-roll; None without one.
        speech_start_ms: Its time in the stream.
        first_sequence: The chunk with that frame.
        is_speaking: Whether the last frames were speech, not a pause of the utterance.
        speech_starts: How often speech has started.
        silent_frames: Frames since the last one with speech.
        interim_frames: The frame up to which an interim transcription was requested.
        check_from: The delivery that requested the check which is due at a later time; empty without one.
        ignored: Why chunks were ignored, of which a warning was written for each cause.
        last_delivery: The delivery that led to this state.
        last_events: The events of that delivery, as JSON: a second attempt publishes the same.
    """

    model_config = ConfigDict(extra="forbid")

    revision: int = 0
    sample_rate: int = 0
    next_sequence: int = 0
    pending: dict[int, PendingChunk] = Field(default_factory=dict)
    pending_since: float | None = None
    next_chunk_at: float = 0.0
    ended_by: int | None = None
    length: int = 0
    missing_ms: int = 0
    buffer_start: int = 0
    marks: list[ChunkMark] = Field(default_factory=list)
    frames: int = 0
    remainder: str = ""
    speech_start: int | None = None
    speech_start_ms: int = 0
    first_sequence: int = 0
    is_speaking: bool = False
    speech_starts: int = 0
    silent_frames: int = 0
    interim_frames: int = 0
    check_from: str = ""
    ignored: list[str] = Field(default_factory=list)
    last_delivery: str = ""
    last_events: list[str] = Field(default_factory=list)

    def time_of_frame(self, frame: int) -> int:
        """Return when a frame after the last gap starts, in ms from the start of the stream."""
        return frame * FRAME_MS + self.missing_ms

    def sample_of_frame(self, frame: int) -> int:
        """Return the sample, at the stream's rate, with which a frame starts."""
        return frame * FRAME_MS * self.sample_rate // 1_000
