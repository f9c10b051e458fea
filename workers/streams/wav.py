"""Chunks of a WAV file, checked against its header."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from petiole.events.content import AudioContent
from petiole.events.errors import UsageError
from petiole.workers.streams.pcm import MAX_CHANNELS, MAX_SAMPLE_RATE, MIN_SAMPLE_RATE, SAMPLE_BYTES


def read_wav(path: Path, chunk_ms: int) -> Iterator[AudioContent]:
    """Yield the chunks of a file, the last with `is_last`. Reads one chunk ahead, so the file may be of any length.

    Raises UsageError (invalid_audio), before the first chunk if the header is wrong; OSError.
    """
    try:
        # `wave` closes only files that it opened itself.
        with path.open("rb") as file, closing(wave.open(file, "rb")) as opened:
            yield from _read_chunks(path, opened, chunk_ms)
    except (wave.Error, EOFError) as error:
        raise _invalid_audio(
            path, f"it is not a WAV file with PCM audio ({str(error) or 'it ends in its header'})"
        ) from error


def _read_chunks(path: Path, opened: wave.Wave_read, chunk_ms: int) -> Iterator[AudioContent]:
    _check_header(path, opened)
    rate, channels, total = opened.getframerate(), opened.getnchannels(), opened.getnframes()
    frames_per_chunk = rate * chunk_ms // 1_000
    sequence = position = 0
    data = opened.readframes(frames_per_chunk)
    while data:
        frames = len(data) // (SAMPLE_BYTES * channels)
        position += frames
        following = opened.readframes(frames_per_chunk)
        if not following and position != total:
            raise _invalid_audio(path, f"its header says {total} samples, but it has {position}")
        yield AudioContent(
            data=data[: frames * SAMPLE_BYTES * channels],
            duration_ms=max(1, round(frames * 1_000 / rate)),
            sample_rate=rate,
            channels=channels,
            sequence=sequence,
            is_last=not following,
        )
        sequence, data = sequence + 1, following


def _check_header(path: Path, opened: wave.Wave_read) -> None:
    if opened.getsampwidth() != SAMPLE_BYTES:
        raise _invalid_audio(path, f"it has {8 * opened.getsampwidth()} bits a sample instead of 16")
    if opened.getnchannels() > MAX_CHANNELS:
        raise _invalid_audio(path, f"it has {opened.getnchannels()} channels instead of one or two")
    if not MIN_SAMPLE_RATE <= opened.getframerate() <= MAX_SAMPLE_RATE:
        reason = f"its sample rate is {opened.getframerate()} Hz instead of {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz"
        raise _invalid_audio(path, reason)
    if not opened.getnframes():
        raise _invalid_audio(path, "it has no audio")


def _invalid_audio(path: Path, reason: str) -> UsageError:
    return UsageError(
        f"{path}: {reason}; convert it: ffmpeg -i IN -ac 1 -ar 16000 -c:a pcm_s16le OUT.wav", code="invalid_audio"
    )
