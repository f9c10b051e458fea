"""16-bit PCM audio: check a chunk, mix it to mono, change its sample rate. Needs the extra `voice` to resample."""

from __future__ import annotations

import sys
from array import array
from typing import TYPE_CHECKING, Any, Final

from petiole.events.content import AudioContent
from petiole.events.errors import InvalidEvent, missing_extra

if TYPE_CHECKING:
    from numpy.typing import NDArray

PCM_FORMAT: Final = "pcm_s16le"
SAMPLE_BYTES: Final = 2
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 8_000, 48_000
MAX_CHANNELS: Final = 2
MAX_CHUNK_MS: Final = 10_000
MODEL_SAMPLE_RATE: Final = 16_000
"""The sample rate of the models for voice activity, turns and transcription."""

_ROUNDING_MS: Final = 1
_TOPIC: Final = "input.audio.chunk"
_CONVERT: Final = "convert it to 16-bit PCM, for example with `ffmpeg -i IN -ac 1 -ar 16000 -c:a pcm_s16le OUT.wav`"


def check_audio(content: AudioContent, topic: str = _TOPIC) -> None:
    """Check that a chunk can be heard, and that its fields say what its bytes are. Raises InvalidEvent."""
    if content.format != PCM_FORMAT:
        raise InvalidEvent(topic, "content.format", f"is {content.format[:60]!r} instead of {PCM_FORMAT!r}; {_CONVERT}")
    if not MIN_SAMPLE_RATE <= content.sample_rate <= MAX_SAMPLE_RATE:
        reason = f"is {content.sample_rate} Hz; send {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz"
        raise InvalidEvent(topic, "content.sample_rate", reason)
    if content.channels > MAX_CHANNELS:
        raise InvalidEvent(topic, "content.channels", f"is {content.channels}; mix the audio to one or two channels")
    frame_bytes = SAMPLE_BYTES * content.channels
    if len(content.data) % frame_bytes:
        reason = f"has {len(content.data)} bytes, which ends within a sample of {frame_bytes}; send whole samples"
        raise InvalidEvent(topic, "content.data", reason)
    _check_duration(content, topic, len(content.data) // frame_bytes)


def _check_duration(content: AudioContent, topic: str, samples: int) -> None:
    actual_ms = samples * 1_000 / content.sample_rate
    if actual_ms > MAX_CHUNK_MS:
        reason = f"is {actual_ms / 1_000:.0f} s of audio; send chunks of at most {MAX_CHUNK_MS // 1_000} s"
        raise InvalidEvent(topic, "content.data", reason)
    if abs(actual_ms - content.duration_ms) > _ROUNDING_MS:
        reason = (
            f"is {content.duration_ms}, but the data is {actual_ms:.1f} ms at {content.sample_rate} Hz; "
            "correct it, or the sample rate or the channels"
        )
        raise InvalidEvent(topic, "content.duration_ms", reason)


def to_mono(content: AudioContent) -> bytes:
    """Return a checked chunk as mono: the mean of its channels."""
    if content.channels == 1:
        return content.data
    samples = _samples(content.data)
    left, right = samples[::2], samples[1::2]
    return _bytes(array("h", [(one + other) // 2 for one, other in zip(left, right, strict=True)]))


def resample(data: bytes, sample_rate: int) -> bytes:
    """Return mono PCM at MODEL_SAMPLE_RATE. Raises UsageError (missing_extra)."""
    if sample_rate == MODEL_SAMPLE_RATE:
        return data
    try:
        import numpy  # noqa: ICN001, PLC0415 - an extra
        import soxr  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        raise missing_extra("resampling", "voice") from error
    converted = soxr.resample(to_floats(data), sample_rate, MODEL_SAMPLE_RATE)
    return bytes((converted.clip(-1, 1) * 32_767).astype(numpy.dtype("<i2")).tobytes())


def to_floats(data: bytes) -> NDArray[Any]:
    """Return mono PCM as 32-bit floats from -1 to 1."""
    import numpy  # noqa: ICN001, PLC0415 - an extra

    return numpy.frombuffer(data, dtype="<i2").astype(numpy.float32) / 32_768


def _samples(data: bytes) -> array[int]:
    samples = array("h", data)
    if sys.byteorder == "big":
        samples.byteswap()
    return samples


def _bytes(samples: array[int]) -> bytes:
    if sys.byteorder == "big":
        samples.byteswap()
    return samples.tobytes()
