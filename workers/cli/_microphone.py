"""Chunks of what the microphone hears, until Ctrl-C. Needs the extra `mic`, and PortAudio."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, Full, Queue
from typing import Any, Final

from petiole.events.content import AudioContent
from petiole.events.errors import UsageError, missing_extra
from petiole.workers.streams.pcm import MAX_SAMPLE_RATE, SAMPLE_BYTES

_MAX_WAITING_CHUNKS: Final = 300
_SILENT_DEVICE_TIMEOUT_S: Final = 5.0


def open_microphone(chunk_ms: int) -> Iterator[AudioContent]:
    """Return the chunks of the default microphone until Ctrl-C; the last has `is_last`.

    Chunks that wait for too long are dropped, which the numbers of the others show.

    Raises UsageError (missing_extra, no_microphone).
    """
    sounddevice = _load_sounddevice()
    with _told_errors(sounddevice):
        rate = min(int(sounddevice.query_devices(kind="input")["default_samplerate"]), MAX_SAMPLE_RATE)
    return _record(sounddevice, rate, rate * chunk_ms // 1_000)


def _record(sounddevice: Any, rate: int, chunk_samples: int) -> Iterator[AudioContent]:
    chunks: Queue[tuple[int, bytes]] = Queue(_MAX_WAITING_CHUNKS)
    sequences = itertools.count()

    def receive(data: Any, *_: object) -> None:
        number = next(sequences)
        with suppress(Full):  # PortAudio's thread must not wait
            chunks.put_nowait((number, bytes(data)))

    with _told_errors(sounddevice), _interruption() as interrupted:
        with sounddevice.RawInputStream(rate, chunk_samples, channels=1, dtype="int16", callback=receive):
            while not interrupted.is_set():
                yield _build_chunk(*_next_chunk(chunks), rate)
        while not chunks.empty():
            yield _build_chunk(*chunks.get(), rate)
        yield _build_chunk(next(sequences), bytes(SAMPLE_BYTES * chunk_samples), rate, is_last=True)


@contextmanager
def _told_errors(sounddevice: Any) -> Iterator[None]:
    try:
        yield
    except sounddevice.PortAudioError as error:
        raise UsageError(
            f"the microphone cannot be opened ({error}); connect one and allow its use; `python -m sounddevice` lists "
            "the devices",
            code="no_microphone",
        ) from error


def _load_sounddevice() -> Any:
    try:
        import sounddevice  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise missing_extra("listening to the microphone", "mic") from error
    except OSError as error:
        raise UsageError(
            "the microphone needs the library PortAudio, which is not installed; run: apt-get install libportaudio2",
            code="no_microphone",
        ) from error
    return sounddevice


def _next_chunk(chunks: Queue[tuple[int, bytes]]) -> tuple[int, bytes]:
    try:
        return chunks.get(timeout=_SILENT_DEVICE_TIMEOUT_S)
    except Empty as error:
        reason = f"the microphone has sent nothing for {_SILENT_DEVICE_TIMEOUT_S:g} s; is it still connected?"
        raise UsageError(reason, code="no_microphone") from error


def _build_chunk(sequence: int, data: bytes, rate: int, *, is_last: bool = False) -> AudioContent:
    duration_ms = max(1, round(len(data) / SAMPLE_BYTES * 1_000 / rate))
    return AudioContent(data=data, duration_ms=duration_ms, sample_rate=rate, sequence=sequence, is_last=is_last)


@contextmanager
def _interruption() -> Iterator[threading.Event]:
    """Set an event at the first Ctrl-C; the second one interrupts as usual."""
    interrupted = threading.Event()

    def interrupt(*_: object) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, former)

    former = signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, former)
