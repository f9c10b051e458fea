"""What makes a chunk of audio acceptable, how chunks get into their order, and when an utterance begins and ends."""

from __future__ import annotations

import struct
import wave
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petiole.events import AudioContent
from petiole.events.errors import InvalidEvent, UsageError
from petiole.workers.streams.audio_state import FRAME_BYTES, AudioState, PendingChunk
from petiole.workers.streams.pcm import check_audio, resample, to_mono
from petiole.workers.streams.sequencing import MAX_PENDING_CHUNKS, Gap, OrderedChunk, add_chunk, take_ordered
from petiole.workers.streams.stream_audio import StreamAudio
from petiole.workers.streams.wav import read_wav
from tests.support.errors import has_code
from tests.support.sound import RATE, RECORDING, silence, tone

BAD = {
    "8 bits": ({"format": "pcm_u8"}, "content.format", "convert it"),
    "1 Hz": ({"sample_rate": 1, "duration_ms": 160_000}, "content.sample_rate", "1 Hz"),
    "3 channels": ({"channels": 3}, "content.channels", "mix the audio"),
    "half a sample": ({"data": b"\0" * 321}, "content.data", "whole samples"),
    "a lying duration": ({"duration_ms": 2_000}, "content.duration_ms", "10.0 ms"),
    "ten hours": ({"data": bytes(400_000), "duration_ms": 36_000_000}, "content.data", "at most 10 s"),
}


@pytest.mark.parametrize(("fields", "field", "advice"), BAD.values(), ids=BAD)
def test_audio_that_cannot_be_heard_is_refused_with_its_field_and_a_remedy(fields, field, advice) -> None:
    content = AudioContent.model_validate({"data": b"\0" * 320, "duration_ms": 10} | fields)

    with pytest.raises(InvalidEvent, match=advice) as refused:
        check_audio(content)

    assert refused.value.field == field


def test_two_channels_become_their_mean() -> None:
    content = AudioContent(data=struct.pack("<4h", 100, 300, -32_768, -32_768), duration_ms=1, channels=2)

    assert struct.unpack("<2h", to_mono(content)) == (200, -32_768)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_every_sample_rate_becomes_sixteen_kilohertz(rate: int) -> None:
    pytest.importorskip("soxr")

    assert len(resample(tone(1_000, rate), rate)) == pytest.approx(32_000, abs=4)


@pytest.mark.parametrize(("rate", "samples"), [(44_100, 1_024), (48_000, 128), (11_025, 1_102), (8_000, 160)])
def test_the_clock_of_the_audio_is_right_whatever_the_length_of_its_chunks(rate, samples) -> None:
    """The chunks of browsers and sound cards are no whole number of samples at 16 kHz; no rounding may add up."""
    pytest.importorskip("soxr")
    state = AudioState(sample_rate=rate)
    chunk = PendingChunk(data=bytes(2 * samples), is_last=False)
    for sequence in range(72 * rate // samples):
        audio = StreamAudio("s", state, lambda first, last: bytes(2 * (last - first)), Deaf())
        add_chunk(state, sequence, chunk, 0.0)
        list(audio.advance(0.0, 1.0, lambda _: False))
        audio.drop_heard()

    heard, sent = state.frames * 512 / 16_000, state.length / rate
    assert sent - heard == pytest.approx(0, abs=0.033)


def a_wav(path: Path, *, rate: int = 16_000, channels: int = 1, width: int = 2, frames: int = 1_600) -> Path:
    with wave.open(str(path), "wb") as written:
        written.setframerate(rate)
        written.setnchannels(channels)
        written.setsampwidth(width)
        written.writeframes(bytes(frames * channels * width))
    return path


WRONG_FILES = {
    "8 bits": ({"width": 1}, "8 bits"),
    "3 channels": ({"channels": 3}, "3 channels"),
    "1 Hz": ({"rate": 1}, "1 Hz"),
    "no audio": ({"frames": 0}, "no audio"),
}


@pytest.mark.parametrize(("fields", "reason"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_file_with_other_audio_is_refused_before_its_first_chunk(fields, reason, tmp_path) -> None:
    path = a_wav(tmp_path / "a.wav", **fields)

    with pytest.raises(UsageError, check=has_code("invalid_audio"), match=f"{reason}.*convert it"):
        next(read_wav(path, 100))


@pytest.mark.parametrize(
    "damage", [lambda _: b"", lambda all_: all_[:20], lambda all_: b"x" * 100, lambda all_: all_[:-1_001]]
)
def test_a_file_that_is_cut_off_or_says_what_is_not_so_is_refused(damage, tmp_path) -> None:
    path = a_wav(tmp_path / "a.wav")
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(UsageError, check=has_code("invalid_audio")):
        list(read_wav(path, 20))


LYING_HEADERS = {
    "the file is empty": (4, 0),
    "the file ends in its header": (4, 20),
    "the file ends before its data": (4, 36),
    "the file has 4 GB": (4, 0xFFFFFFFF),
    "the format has no bytes": (16, 0),
    "the format has an odd size": (16, 15),
    "the format is longer": (16, 18),
    "the format has 4 GB": (16, 0xFFFFFFF0),
    "48,000 samples a second": (24, 48_000),
    "no bytes a second": (28, 0),
    "three bytes a sample": (32, 3),
    "no data": (40, 0),
    "less data": (40, 640),
    "half a sample": (40, 3_199),
    "4 GB of data": (40, 0xFFFFFFFF),
}


@pytest.mark.parametrize("sound", [b"\0", b"\x55"], ids=["silence", "sound"])
@pytest.mark.parametrize(("offset", "lie"), LYING_HEADERS.values(), ids=LYING_HEADERS)
def test_a_file_whose_header_lies_is_refused_before_its_first_chunk(offset, lie, sound, tmp_path) -> None:
    path = a_wav(tmp_path / "a.wav")
    written = bytearray(path.read_bytes()[:44] + sound * 3_200)
    written[offset : offset + 4] = struct.pack("<I", lie)
    path.write_bytes(written)

    with pytest.raises(UsageError, check=has_code("invalid_audio"), match="convert it"):
        next(read_wav(path, 20))


def test_a_file_with_a_title_is_read_whole(tmp_path) -> None:
    path = a_wav(tmp_path / "a.wav")
    title = b"LIST" + struct.pack("<I", 10) + b"INFOINAM\0\0"
    written = bytearray(path.read_bytes() + title)
    written[4:8] = struct.pack("<I", len(written) - 8)
    path.write_bytes(written)

    assert sum(len(chunk.data) for chunk in read_wav(path, 20)) == 3_200


def test_a_file_is_read_in_chunks_and_the_last_says_so() -> None:
    chunks = list(read_wav(RECORDING, 100))

    assert [chunk.sequence for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.is_last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    for chunk in chunks:
        check_audio(chunk)


def pending(*, is_last: bool = False) -> PendingChunk:
    return PendingChunk(data=silence(20), is_last=is_last)


def arrive(state: AudioState, *sequences: int, now: float = 0.0, last: int | None = None) -> list[object]:
    found: list[object] = []
    for sequence in sequences:
        add_chunk(state, sequence, pending(is_last=sequence == last), now)
        found += [item if isinstance(item, Gap) else item.sequence for item in take_ordered(state, now, 1.0)]
    return found


@given(st.permutations(range(12)))
def test_chunks_come_out_in_their_order_whatever_the_order_of_arrival(order) -> None:
    assert arrive(AudioState(sample_rate=16_000), *order, *order[:3]) == list(range(12))


def test_missing_chunks_are_one_gap_when_their_time_is_over() -> None:
    state = AudioState(sample_rate=16_000)

    assert arrive(state, 0, 4, 5) == [0]
    assert list(take_ordered(state, 0.9, 1.0)) == []
    gap, *rest = take_ordered(state, 1.0, 1.0)
    assert gap == Gap(1, 3)
    assert [item.sequence for item in rest if isinstance(item, OrderedChunk)] == [4, 5]
    assert arrive(state, 2, 6) == [6]


def test_no_more_than_a_limit_of_chunks_wait() -> None:
    found = arrive(AudioState(sample_rate=16_000), *range(1, MAX_PENDING_CHUNKS + 2))

    assert found == [Gap(0, 0), *range(1, MAX_PENDING_CHUNKS + 2)]


def test_a_chunk_after_the_last_one_is_refused_and_one_before_it_is_not() -> None:
    state = AudioState(sample_rate=16_000)

    assert arrive(state, 0, 2, last=2) == [0]
    with pytest.raises(UsageError, check=has_code("audio_ended"), match="new stream"):
        add_chunk(state, 3, pending(), 0.0)
    assert arrive(state, 1) == [1, 2]


@pytest.mark.parametrize("hours", [1, pytest.param(10, marks=pytest.mark.long)])
def test_a_stream_of_hours_keeps_no_more_than_one_of_a_minute(hours: int) -> None:
    stored = bytearray()
    state = AudioState(sample_rate=RATE)
    chunk, largest = silence(10_000), 0
    for sequence in range(hours * 360):
        audio = StreamAudio("s", state, lambda first, last: bytes(2 * (last - first)), Deaf())
        add_chunk(state, sequence, PendingChunk(data=chunk, is_last=False), 0.0)
        assert list(audio.advance(0.0, 1.0, lambda _: False)) == []
        dropped = audio.drop_heard()
        stored += audio.added
        del stored[: 2 * dropped]
        largest = max(largest, len(stored) + len(state.model_dump_json()))

    assert state.length == hours * 3_600 * RATE
    assert largest < 2 * RATE * 4 + 2_000


class Deaf:
    """Hears no speech."""

    def hear(self, stream_id: str, heard: int, frames: bytes, last_frames: bytes | None = None) -> list[float]:
        return [0.0] * (len(frames) // FRAME_BYTES)
