"""Whisper, in a process of its own (workers/process/model_server.py): PCM in, text out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from faster_whisper import WhisperModel

from petiole.workers.streams.pcm import to_floats
from petiole.workers.transcription.faster_whisper import find_whisper_weights


def load_faster_whisper() -> Callable[[bytes], bytes]:
    """Load the weights of the package, for one thread of the processor."""
    model: Any = WhisperModel(
        str(find_whisper_weights()), device="cpu", compute_type="int8", cpu_threads=1, local_files_only=True
    )

    def transcribe(pcm: bytes) -> bytes:
        segments, _ = model.transcribe(
            to_floats(pcm), language="en", beam_size=1, without_timestamps=True, condition_on_previous_text=False
        )
        return " ".join(str(segment.text).strip() for segment in segments).strip().encode()

    return transcribe
