"""The program flite, Debian's package of that name, with its voice slt. Its licence is BSD-like."""

from __future__ import annotations

from typing import Final

from petiole.workers.synthesis import Speech
from petiole.workers.synthesis._program import speak


class Flite:
    """The voice slt."""

    name = "flite"

    def synthesize(self, text: str) -> Speech:
        """Speak a text. Raises ProviderUnavailable, NotConfigured."""
        return speak("flite", ["-voice", "slt", "-o", "{output}", "-f", "{input}"], text)


SYNTHESIZER: Final = Flite
