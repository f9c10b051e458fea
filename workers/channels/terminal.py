"""Terminal: the channel that writes answers to the worker's standard output."""

from __future__ import annotations

import sys
import unicodedata
from typing import Final, TextIO

from petiole.events.errors import ProviderUnavailable
from petiole.events.texts import error_text
from petiole.workers.channels.channel import DuplicateBehavior

# Control characters move the cursor and set titles. Separators and lone surrogates break the line.
_CONTROL_CATEGORIES: Final = frozenset({"Cc", "Zl", "Zp", "Cs"})
# These reorder the text around them. Source: Unicode Standard Annex 9, section 2, and "Trojan Source" (2021).
_REORDERING: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Terminal:
    """A channel that writes one line per message, which begins with the stream id."""

    name = "terminal"
    on_duplicate: DuplicateBehavior = "shown"

    def __init__(self, output: TextIO | None = None) -> None:
        """Write to `output`; by default to the current standard output at each message."""
        self._output = output

    def format(self, text: str) -> str:
        """Put the text on one line, and remove characters that control a terminal."""
        spaced = "".join(" " if character.isspace() else character for character in text)
        return "".join(character for character in spaced if not _is_control_character(character)).strip()

    def send(self, stream_id: str, message_id: str, text: str) -> None:  # noqa: ARG002 - part of the interface
        """Write the line. A second run writes it again. Raises ProviderUnavailable."""
        output = self._output or sys.stdout
        try:
            output.write(_encodable(self.format(f"[{stream_id}] {text}"), output) + "\n")
            output.flush()
        except (OSError, ValueError) as error:  # ValueError: the output is closed
            raise ProviderUnavailable(self.name, error_text(error)) from error


def _is_control_character(character: str) -> bool:
    return unicodedata.category(character) in _CONTROL_CATEGORIES or character in _REORDERING


def _encodable(line: str, output: TextIO) -> str:
    # Celery replaces standard output by an object without an encoding.
    encoding = getattr(output, "encoding", None) or "utf-8"
    return line.encode(encoding, "replace").decode(encoding)
