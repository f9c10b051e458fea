"""Mailbox: the channel that stores answers for readers such as the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from petiole.workers.channels.channel import DuplicateBehavior

AppendMessage: TypeAlias = Callable[[str, str, str], object]
"""Stores a message: stream id, message id, text. A repeated message id has no effect."""


class Mailbox:
    """A channel that appends answers to a store."""

    name = "mailbox"
    on_duplicate: DuplicateBehavior = "harmless"

    def __init__(self, append: AppendMessage) -> None:
        self._append = append

    def format(self, text: str) -> str:
        """Return the text unchanged; the reader formats it."""
        return text

    def send(self, stream_id: str, message_id: str, text: str) -> None:
        """Store the message. Safe to run twice."""
        self._append(stream_id, message_id, text)
