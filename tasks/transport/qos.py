"""QoS: deliveries that are not settled yet. Their acks are collected and sent with the channel's next fetch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kombu.transport import redis, virtual

from petiole.tasks.transport.commands import GiveBack


class QoS(redis.QoS):
    """The deliveries that a channel has handed over and that are not settled."""

    channel: Any
    _delivered: Any
    _dirty: set[str]
    _flush: Callable[[], None]

    def append(self, message: Any, delivery_tag: str) -> None:
        """Add a delivery that was handed over; fetch.lua has recorded it at the broker."""
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a delivery. Any thread may call it."""
        virtual.QoS.ack(self, delivery_tag)
        self.channel.acknowledge(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's
        """Drop a delivery, or return it to the end of its queue, as kombu does."""
        virtual.QoS.ack(self, delivery_tag)
        if requeue:
            self.channel.give_back([delivery_tag], "last")
        else:
            self.channel.acknowledge(delivery_tag)

    def give_back(self, delivery_tag: str, way: GiveBack) -> None:
        """Return a delivery to its queue."""
        virtual.QoS.ack(self, delivery_tag)
        self.channel.give_back([delivery_tag], way)

    def restore_unacked(self, client: Any | None = None) -> None:  # noqa: ARG002 - kombu's
        """Return all deliveries that are not settled, in their original order; not what a worker still runs."""
        self.channel.send_acks()
        self._flush()
        self.channel.give_back_unsettled()
        self._delivered.clear()

    @property
    def visibility_timeout(self) -> int:
        """The time after which a message of a stock worker, which kombu restores, returns to its queue."""
        return int(self.channel.stock_visibility_timeout)
