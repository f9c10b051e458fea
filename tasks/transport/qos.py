"""QoS: messages that are not settled yet. Their acks are collected and sent with the channel's next fetch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from kombu.transport import redis, virtual


class QoS(redis.QoS):
    """The messages that a channel has handed over and that are not settled."""

    channel: Any
    _delivered: OrderedDict[str, Any]
    _dirty: set[str]
    _flush: Callable[[], None]

    def append(self, message: Any, delivery_tag: str) -> None:
        """Add a message that was handed over; fetch.lua has recorded it at the broker."""
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message. Any thread may call it."""
        # Settled here first: if the broker were first, the lease would seem to be lost.
        virtual.QoS.ack(self, delivery_tag)
        self.channel.acknowledge(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's
        """Drop a message, or requeue it at the end of its queue, as kombu does."""
        virtual.QoS.ack(self, delivery_tag)
        if requeue:
            self.channel.requeue([delivery_tag], "LPUSH")
        else:
            self.channel.acknowledge(delivery_tag)

    def unsettled(self) -> list[str]:
        """Return the tags of the messages that are not settled. Any thread may call it."""
        return [tag for tag in list(self._delivered) if tag not in self._dirty]

    def restore_unacked(self, client: Any | None = None) -> None:  # noqa: ARG002 - kombu's
        """Requeue all messages that are not settled, in their original order."""
        self.channel.send_acks()
        self._flush()
        self.channel.requeue(list(self._delivered), "RPUSH")
        self._delivered.clear()

    def restore_by_tag(self, tag: str, client: Any | None = None, leftmost: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - kombu's
        """Requeue one message."""
        self.channel.requeue([tag], "LPUSH" if leftmost else "RPUSH")

    def restore_visible(self, start: int = 0, num: int | None = None, interval: int = 1) -> None:  # noqa: ARG002 - kombu's
        """Requeue messages with expired leases; kombu calls it periodically."""
        self.channel.requeue_expired(num, every=interval or 1)
