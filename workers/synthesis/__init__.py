"""Synthesizers: text to speech, one file each.

    espeak_ng   the program espeak-ng (GPL-3, a process of its own): robotic, clear, many languages
    flite       the program flite (BSD-like): a more natural American voice

`PETIOLE_SYNTHESIZER` selects one. To add one, write `workers/synthesis/<name>.py` with a class whose `name` is `<name>`
and `SYNTHESIZER = <the class>`, or name a class of your own package as `package.module:Class`.
tests/contracts/test_synthesizers.py tests all of them.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from petiole.events.errors import UsageError

__all__ = ["Speech", "Synthesizer", "create_synthesizer", "list_synthesizers"]


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
    module_name, _, class_name = name.partition(":")
    if not class_name and name not in list_synthesizers():
        raise _unknown_synthesizer(name)
    try:
        module = importlib.import_module(module_name if class_name else f"{__name__}.{name}")
        create = getattr(module, class_name or "SYNTHESIZER")
    except (ImportError, AttributeError, ValueError) as error:
        raise _unknown_synthesizer(name) from error
    synthesizer: object = create()
    if not isinstance(synthesizer, Synthesizer):
        raise UsageError(f"{name} is not a synthesizer; give it a `name` and a method `synthesize(text)`")
    return synthesizer


def _unknown_synthesizer(name: str) -> UsageError:
    choices = ", ".join(repr(known) for known in list_synthesizers())
    return UsageError(
        f"there is no synthesizer {name!r}; set PETIOLE_SYNTHESIZER to {choices}, or to your own 'package.module:Class'"
    )
