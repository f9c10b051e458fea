"""OutputChannel: the interface of all channels by which answers reach users."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

DuplicateBehavior: TypeAlias = Literal["harmless", "known", "shown"]
"""How a channel treats a message that is sent twice, after a crash left it unknown whether it was sent:

    harmless    the channel drops the duplicate by its message id
    known       the receiver can drop the duplicate by its message id, so the message is sent again
    shown       the user would see the duplicate, so the message is not sent again
"""


class OutputChannel(Protocol):
    """A way to send answers to users."""

    name: str
    on_duplicate: DuplicateBehavior

    def format(self, text: str) -> str:
        """Format an answer for this channel."""
        ...

    def send(self, stream_id: str, message_id: str, text: str) -> None:
        """Send a formatted answer to the readers of a stream.

        Raises:
            ProviderUnavailable: Sending again may succeed.
            RetryLater: Sending again at the given time may succeed.
            ProviderRefused: Sending again would fail.
        """
        ...
