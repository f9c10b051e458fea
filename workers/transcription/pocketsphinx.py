"""PocketSphinx with the model of its package: American English, 110 MB of memory. Needs the extra `voice`."""

from __future__ import annotations

import threading
from typing import Any, Final

from petiole.events.errors import missing_extra


class PocketSphinx:
    """One decoder; it transcribes one utterance at a time."""

    name = "pocketsphinx"

    def __init__(self) -> None:
        try:
            from pocketsphinx import Decoder  # noqa: PLC0415 - an extra
        except ModuleNotFoundError as error:
            raise missing_extra("transcription by pocketsphinx", "voice") from error
        self._decoder: Any = Decoder(samprate=16_000, loglevel="FATAL")
        self._lock = threading.Lock()

    def transcribe(self, pcm: bytes) -> str:
        """Return the text of 16-bit mono PCM at 16 kHz."""
        if not pcm:
            return ""
        with self._lock:
            self._decoder.start_utt()
            try:
                self._decoder.process_raw(pcm, full_utt=True)
            finally:
                self._decoder.end_utt()
            hypothesis = self._decoder.hyp()
        return str(hypothesis.hypstr).strip() if hypothesis else ""


RECOGNIZER: Final = PocketSphinx
