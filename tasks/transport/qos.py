"""QoS: deliveries that are not settled yet. Their acks are collected and sent with the channel's next fetch.

A worker of short handlers would wait for most of the time if it fetched no more than its prefetch limit. So it may
hold, beyond the limit, as many deliveries as were lately settled in AHEAD_S. They can be given back until they begin.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

from kombu.transport import redis, virtual

from petiole.tasks.transport.commands import GiveBack

AHEAD_S = 0.05
"""For how long a worker has deliveries beyond its prefetch limit, at its latest pace."""

MAX_AHEAD = 256

_PACE_WINDOW_S = 0.02


class QoS(redis.QoS):
    """The deliveries that a channel has handed over and that are not settled."""

    channel: Any
    _delivered: Any
    _dirty: set[str]
    _flush: Callable[[], None]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.settled = 0
        self._ahead = 0
        self._counted, self._counted_at = 0, monotonic()

    def can_consume_max_estimate(self) -> Any:  # the stubs leave None out
        """Return how many deliveries may be fetched; None if there is no limit."""
        if not self.prefetch_count:
            return None
        return max(self.fetch_limit() - self._held(), 0)

    def can_consume(self) -> bool:
        """Return whether the worker may hold one more delivery."""
        return not self.prefetch_count or self._held() < self.fetch_limit()

    def is_within_prefetch(self) -> bool:
        """Return whether the worker holds less than it prefetches."""
        return not self.prefetch_count or self._held() < self.prefetch_count

    def excess(self, waiting: int = 0) -> int:
        """Return by how much the worker's deliveries and those that wait for it exceed its prefetch limit."""
        return max(self._held() + waiting - self.prefetch_count, 0) if self.prefetch_count else 0

    def fetch_limit(self) -> int:
        """Return how many deliveries the worker may hold."""
        now = monotonic()
        if (elapsed := now - self._counted_at) >= _PACE_WINDOW_S:
            settled, self._counted_at = self.settled, now
            self._ahead = min(int((settled - self._counted) * AHEAD_S / elapsed), MAX_AHEAD)
            self._counted = settled
        return self.prefetch_count + self._ahead

    def _held(self) -> int:
        return len(self._delivered) - len(self._dirty)

    def append(self, message: Any, delivery_tag: str) -> None:
        """Add a delivery that was handed over; fetch.lua has recorded it at the broker."""
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a delivery. Any thread may call it."""
        virtual.QoS.ack(self, delivery_tag)
        self.settled += 1
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
