"""PocketSphinx with the model of its package: American English, 110 MB of memory. Needs the extra `voice`.

Its decoder keeps Python's global lock for as long as it decodes, a second or two, in which a whole worker would stand
still: one more reason for a process of its own.
"""

from __future__ import annotations

import importlib.util

from petiole.events.errors import missing_extra
from petiole.workers.process.model_process import ModelProcess


class PocketSphinx:
    """One decoder for all workers of this machine."""

    name = "pocketsphinx"

    def __init__(self) -> None:
        if importlib.util.find_spec("pocketsphinx") is None:
            raise missing_extra("transcription by pocketsphinx", "voice")
        self.process = ModelProcess("petiole.workers.transcription._pocketsphinx:load_pocketsphinx", self.name)

    def transcribe(self, pcm: bytes) -> str:
        """Return the text of 16-bit mono PCM at 16 kHz. Raises ProviderUnavailable."""
        return self.process.ask(pcm).decode() if pcm else ""
