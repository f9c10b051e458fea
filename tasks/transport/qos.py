"""Acks: gathered, and carried by the channel's next turn."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from kombu.transport import redis, virtual


class QoS(redis.QoS):
    """What a channel was handed and has not settled."""

    channel: Any
    _delivered: OrderedDict[str, Any]
    _dirty: set[str]
    _flush: Callable[[], None]

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message that was handed over; the step that took it from its queue has recorded it."""
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message; other threads may."""
        # Settled here before it is at the broker, or its lease would seem to be lost.
        virtual.QoS.ack(self, delivery_tag)
        self.channel.acknowledge(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's
        """Forget a message, or put it back at the end of its queue, as kombu does."""
        virtual.QoS.ack(self, delivery_tag)
        if requeue:
            self.channel.requeue([delivery_tag], "LPUSH")
        else:
            self.channel.acknowledge(delivery_tag)

    def unsettled(self) -> list[str]:
        """Return the tags of what was handed over and is not settled; other threads may ask."""
        return [tag for tag in list(self._delivered) if tag not in self._dirty]

    def restore_unacked(self, client: Any | None = None) -> None:  # noqa: ARG002 - kombu's
        """Put everything back that was handed over and not settled, in the order in which it came."""
        self.channel.send_acks()
        self._flush()
        self.channel.requeue(list(self._delivered), "RPUSH")
        self._delivered.clear()

    def restore_by_tag(self, tag: str, client: Any | None = None, leftmost: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - kombu's
        """Put one message back."""
        self.channel.requeue([tag], "LPUSH" if leftmost else "RPUSH")

    def restore_visible(self, start: int = 0, num: int | None = None, interval: int = 1) -> None:  # noqa: ARG002 - kombu's
        """Put back what others have lost; called every now and then."""
        self.channel.requeue_expired(num, every=interval or 1)
