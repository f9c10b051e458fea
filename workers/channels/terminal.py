"""Terminal: answers as lines of text, for whoever watches a worker."""

from __future__ import annotations

import sys
import unicodedata
from typing import Final, TextIO

from petiole.events.errors import ProviderUnavailable
from petiole.workers.channels.channel import DuplicateBehavior

# Control characters move the cursor and set titles; line and paragraph separators and lone surrogates break
# the line.
_CONTROL_CATEGORIES: Final = frozenset({"Cc", "Zl", "Zp", "Cs"})
# These reorder what is shown around them. Source: Unicode Standard Annex 9, section 2, and "Trojan
# Source" (2021).
_REORDERING: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Terminal:
    """A channel that writes one line for each message, led by the stream's name."""

    name = "terminal"
    on_duplicate: DuplicateBehavior = "shown"

    def __init__(self, output: TextIO | None = None) -> None:
        """Write to `output`; by default to whatever standard output is at the time."""
        self._output = output

    def format(self, text: str) -> str:
        """Make one line of a text, and take away all that could drive a terminal."""
        spaced = "".join(" " if character.isspace() else character for character in text)
        return "".join(character for character in spaced if not _is_control_character(character)).strip()

    def send(self, stream_id: str, message_id: str, text: str) -> None:  # noqa: ARG002 - it forgets what it showed
        """Write the line. A second run writes it again. Raises: ProviderUnavailable."""
        output = self._output or sys.stdout
        try:
            output.write(_encodable(self.format(f"[{stream_id}] {text}"), output) + "\n")
            output.flush()
        except (OSError, ValueError) as error:  # ValueError: the stream was closed
            raise ProviderUnavailable(self.name, str(error)) from error


def _is_control_character(character: str) -> bool:
    return unicodedata.category(character) in _CONTROL_CATEGORIES or character in _REORDERING


def _encodable(line: str, output: TextIO) -> str:
    # What Celery puts in the place of standard output has no encoding of its own.
    encoding = getattr(output, "encoding", None) or "utf-8"
    return line.encode(encoding, "replace").decode(encoding)
