"""Transcribers: speech to text, one file each.

    pocketsphinx     small and fast; understands clear, simple English
    faster_whisper   Whisper; slower and far better

`PETIOLE_TRANSCRIBER` selects one. To add one, write `workers/transcription/<name>.py` with a class whose `name` is
`<name>`, or name a class of your own package as `package.module:Class`. tests/contracts/test_transcribers.py tests all
of them.
"""

from __future__ import annotations

import pkgutil
from typing import Protocol, runtime_checkable

from petiole.events.errors import UsageError
from petiole.workers.providers import find_class

__all__ = ["Transcriber", "create_transcriber", "list_transcribers"]


@runtime_checkable
class Transcriber(Protocol):
    """Recognizes speech. Threads may call it at the same time."""

    name: str

    def transcribe(self, pcm: bytes) -> str:
        """Return the text of 16-bit mono PCM at 16 kHz; empty if nothing was recognized."""
        ...


def list_transcribers() -> list[str]:
    """List the transcribers of this folder."""
    return [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]


def create_transcriber(name: str) -> Transcriber:
    """Load the transcriber with this name: one of this folder, or `package.module:Class`.

    Raises UsageError if it does not exist, or needs an extra that is not installed (missing_extra).
    """
    choices = list_transcribers()
    found = find_class(__name__, name, choices=choices, setting="PETIOLE_TRANSCRIBER", kind="transcriber")
    transcriber: object = found()
    if not isinstance(transcriber, Transcriber):
        raise UsageError(f"{name} is not a transcriber; give it a `name` and a method `transcribe(pcm)`")
    return transcriber
