"""Channel: what an agent knows of a way to a user, whichever it is."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

DuplicateBehavior: TypeAlias = Literal["harmless", "known", "shown"]
"""What becomes of a message that is sent again under its id, after a crash that leaves it unknown whether it was sent:

    harmless    it stands there once
    known       whoever receives it knows it by its id, and has to drop it
    shown       the user would see it twice: it is not sent again
"""


class OutputChannel(Protocol):
    """A way to a user."""

    name: str
    on_duplicate: DuplicateBehavior

    def format(self, text: str) -> str:
        """Put an answer into the form that this channel takes."""
        ...

    def send(self, stream_id: str, message_id: str, text: str) -> None:
        """Deliver a formatted answer to whoever reads that stream.

        Raises: ProviderUnavailable and RetryLater where it may be taken later, ProviderRefused where it never will.
        """
        ...
