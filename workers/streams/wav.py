"""Chunks of a WAV file, checked against its header."""

from __future__ import annotations

import struct
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
            _check_sizes(path)
            yield from _read_chunks(path, opened, chunk_ms)
    # A RuntimeError is a chunk that ends outside the one around it.
    except (wave.Error, EOFError, RuntimeError) as error:
        raise _invalid_audio(
            path, f"it is not a WAV file with PCM audio ({str(error) or 'it ends in its header'})"
        ) from error


def _read_chunks(path: Path, opened: wave.Wave_read, chunk_ms: int) -> Iterator[AudioContent]:
    _check_header(path, opened)
    rate, channels = opened.getframerate(), opened.getnchannels()
    frames_per_chunk = rate * chunk_ms // 1_000
    sequence = 0
    data = opened.readframes(frames_per_chunk)
    while data:
        frames = len(data) // (SAMPLE_BYTES * channels)
        following = opened.readframes(frames_per_chunk)
        yield AudioContent(
            data=data,
            duration_ms=max(1, round(frames * 1_000 / rate)),
            sample_rate=rate,
            channels=channels,
            sequence=sequence,
            is_last=not following,
        )
        sequence, data = sequence + 1, following


def _check_sizes(path: Path) -> None:
    """Check that the sizes in the headers fill the file, and that the rates agree: `wave` believes what they say.

    Source: Multimedia Programming Interface and Data Specifications 1.0 (IBM, Microsoft, 1991), RIFF and WAVE.
    """
    size, position, block = path.stat().st_size, 12, 1
    with path.open("rb") as file:
        stated = 8 + int.from_bytes(file.read(8)[4:], "little")
        if stated != size:
            raise _invalid_audio(path, f"its header says {stated} bytes, but it has {size}")
        while position < size:
            file.seek(position)
            name, chunk_bytes = struct.unpack("<4sL", file.read(8).ljust(8, b"\0"))
            if name == b"fmt ":
                _, channels, rate, byte_rate, stated, bits = struct.unpack("<HHLLHH", file.read(16).ljust(16, b"\0"))
                block = channels * -(-bits // 8)
                if (stated, byte_rate) != (block, rate * block):
                    reason = f"its header says {byte_rate} bytes a second, which is not {rate} samples of {block} bytes"
                    raise _invalid_audio(path, reason)
            position += 8 + chunk_bytes + chunk_bytes % 2
            is_name = name.isascii() and name.decode().isprintable()
            if not is_name or position > size or (name == b"data" and chunk_bytes % max(1, block)):
                raise _invalid_audio(path, "the sizes in its headers do not fit the data")


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
