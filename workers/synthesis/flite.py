"""The program flite, Debian's package of that name, with its voice slt. Its licence is BSD-like."""

from __future__ import annotations

from petiole.workers.synthesis import Speech
from petiole.workers.synthesis._program import run_synthesizer


class Flite:
    """The voice slt."""

    name = "flite"

    def synthesize(self, text: str) -> Speech:
        """Speak a text. Raises ProviderUnavailable, NotConfigured."""
        return run_synthesizer("flite", ["-voice", "slt", "-o", "{output}", "-f", "{input}"], text)
