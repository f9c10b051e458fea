"""Channel: what an agent knows of a way to a user, whichever it is."""

from __future__ import annotations

from typing import Protocol


class Channel(Protocol):
    """A way to a user. After a crash a message may be sent again under the same id."""

    name: str

    def format(self, text: str) -> str:
        """Put an answer into the form that this channel takes."""
        ...

    def send(self, stream_id: str, message_id: str, text: str) -> None:
        """Deliver a formatted answer to whoever reads that stream. Raises: ProviderUnavailable."""
        ...
