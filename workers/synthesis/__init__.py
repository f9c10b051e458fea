"""Synthesizers: text to speech, one file each.

    espeak_ng   the program espeak-ng (GPL-3, a process of its own): robotic, clear, many languages
    flite       the program flite (BSD-like): a more natural American voice
    piper       a neural voice (GPL-3, a process of its own; extra `piper`): the most natural, and the slowest

`PETIOLE_SYNTHESIZER` selects one. To add one, write `workers/synthesis/<name>.py` with a class whose `name` is
`<name>`, or name a class of your own package as `package.module:Class`. tests/contracts/test_synthesizers.py tests all
of them.
"""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from petiole.events.errors import UsageError
from petiole.workers.providers import find_class

__all__ = ["MAX_TEXT_LENGTH", "Speech", "Synthesizer", "create_synthesizer", "list_synthesizers"]

MAX_TEXT_LENGTH: Final = 2_000
"""Longer texts are cut off: two minutes of speech."""


@dataclass(frozen=True, slots=True)
class Speech:
    """Spoken text: 16-bit mono PCM."""

    pcm: bytes
    sample_rate: int


@runtime_checkable
class Synthesizer(Protocol):
    """Speaks text. Threads may call it at the same time."""

    name: str

    def synthesize(self, text: str) -> Speech:
        """Speak a text. Raises ProviderUnavailable, NotConfigured."""
        ...


def list_synthesizers() -> list[str]:
    """List the synthesizers of this folder."""
    return [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]


def create_synthesizer(name: str) -> Synthesizer:
    """Create the synthesizer with this name: one of this folder, or `package.module:Class`.

    Raises UsageError if it does not exist.
    """
    choices = list_synthesizers()
    found = find_class(__name__, name, choices=choices, setting="PETIOLE_SYNTHESIZER", kind="synthesizer")
    synthesizer: object = found()
    if not isinstance(synthesizer, Synthesizer):
        raise UsageError(f"{name} is not a synthesizer; give it a `name` and a method `synthesize(text)`")
    return synthesizer
