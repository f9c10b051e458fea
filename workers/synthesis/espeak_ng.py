"""The program espeak-ng, Debian's package of that name. Its licence is GPL-3; it runs as a process of its own."""

from __future__ import annotations

from petiole.workers.synthesis import Speech
from petiole.workers.synthesis._program import run_synthesizer


class EspeakNg:
    """The American English voice, at 160 words a minute."""

    name = "espeak_ng"

    def synthesize(self, text: str) -> Speech:
        """Speak a text. Raises ProviderUnavailable, NotConfigured."""
        return run_synthesizer("espeak-ng", ["-v", "en-us", "-s", "160", "-w", "{output}", "-f", "{input}"], text)
