"""Mailbox: answers kept until somebody reads them, such as the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from petiole.workers.channels.channel import DuplicateBehavior

AppendMessage: TypeAlias = Callable[[str, str, str], object]
"""Keeps a message: stream id, message id, text; the same message id twice is kept once."""


class Mailbox:
    """A channel over a store that is handed in."""

    name = "mailbox"
    on_duplicate: DuplicateBehavior = "harmless"

    def __init__(self, append: AppendMessage) -> None:
        self._append = append

    def format(self, text: str) -> str:
        """Leave the text as it is: the reader knows what it can show."""
        return text

    def send(self, stream_id: str, message_id: str, text: str) -> None:
        """Keep the message for its reader. Safe to run twice."""
        self._append(stream_id, message_id, text)
