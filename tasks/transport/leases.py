"""Leases: whoever holds a message says so again and again, and what nobody vouches for goes back to its queue.

A process that calls `renew` twice a second is known to live; every third of the visibility timeout it also renews what
it holds, each message by its tag. `sweep` gives back what is held by a process that has not been heard of for
`consumer_timeout`, what was taken by one that lives and does not know of it, as when the answer to a turn was lost, and
what a stock worker took longer ago than `stock_visibility_timeout`.

A server that stood still, and a process that did, come back to a world where everybody seems silent. Hence whoever was
out of touch himself judges nobody, until the others had time to be heard.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic, time
from typing import Any

from petiole.tasks.transport.commands import LeaseTimeouts
from petiole.tasks.transport.requeue import RequeueChannel

logger = logging.getLogger(__name__)

# What may be set in the transport options beside kombu's.
LEASE_OPTIONS = ("consumer_timeout", "stock_visibility_timeout")

# How many go back in one sweep; kombu's restore has no bound.
MAX_REQUEUED = 500


class Leases(RequeueChannel):
    """A channel of kombu's that renews what it holds, and gives back what nobody does."""

    visibility_timeout = 15
    # Kombu's own values look for a dead worker's messages about every 100 s.
    unacked_restore_interval: float = 1
    unacked_restore_throttle: float = 1
    socket_timeout: float = 10.0
    socket_connect_timeout: float = 5.0
    socket_keepalive: bool = True

    consumer_timeout: float = 2.0
    stock_visibility_timeout: float = 3600.0
    leased_tags: Callable[[], list[str]]

    def __init__(self, *args: Any, **options: Any) -> None:
        self._contact_at = self._connected_since = self._renewed_at = self._requeued_at = float("-inf")
        self._is_registered = False
        self._lost: set[str] = set()
        super().__init__(*args, **options)

    def renew(self) -> None:
        """Tell the broker that this process lives, and renew what it holds where that is due; any thread may."""
        began_at = monotonic()
        is_due = not self._is_connected() or began_at - self._renewed_at >= self.visibility_timeout / 3
        lost = self._commands.renew(self.leased_tags() if is_due else [])
        self._record_contact()
        if is_due:
            self._renewed_at = began_at
            self._log_lost(lost)

    def unregister(self) -> None:
        """Tell the broker that nothing more is to be expected of this process."""
        if self._is_registered:
            self._is_registered = False
            self._commands.unregister()

    def requeue_expired(self, limit: int | None = None, *, every: int = 1) -> None:
        """Give back what others have lost, a bounded part of it; no more often than the restore interval says."""
        if (
            monotonic() - self._requeued_at < 0.9 * every * self.unacked_restore_interval
            or not self._may_expire_others()
        ):
            return
        self._requeued_at = monotonic()
        silence = self.consumer_timeout if self._is_registered else 0
        ages = LeaseTimeouts(self.visibility_timeout, self.stock_visibility_timeout, silence)
        silent_before, expired = self._commands.find_expired(ages, limit or MAX_REQUEUED)
        # Asked again: the server may have stood still before it answered.
        if self._may_expire_others():
            self._requeue(expired, "RPUSH", silent_before)

    def _after_fork(self) -> None:
        self._is_registered = False
        super()._after_fork()

    def _record_contact(self) -> None:
        was_in_touch, self._contact_at, self._is_registered = self._is_connected(), monotonic(), True
        if not was_in_touch:
            self._connected_since = self._contact_at

    def _is_connected(self) -> bool:
        return monotonic() - self._contact_at < self.consumer_timeout / 2

    def _may_expire_others(self) -> bool:
        """Tell whether the silence of others is theirs. A consumer that never renews goes by age alone."""
        is_steady = monotonic() - self._connected_since > self.consumer_timeout
        return not self._is_registered or (self._is_connected() and is_steady)

    def _log_lost(self, lost: list[str]) -> None:
        # What was settled while the question was on its way is not lost.
        still_lost = set(lost) & set(self.leased_tags())
        if news := still_lost - self._lost:
            logger.warning("lease.lost", extra={"deliveries": len(news)})
        self._lost = still_lost


def renew_leases(channel: Any) -> None:
    """Renew what a channel holds: ours, or kombu's own for Redis. Other brokers know of no leases."""
    if channel.connection is None or not hasattr(channel, "unacked_index_key"):
        return
    if isinstance(channel, Leases):
        channel.renew()
        return
    tags = [tag for tag in list(channel.qos._delivered) if tag not in channel.qos._dirty]  # noqa: SLF001 - kombu's
    if tags:
        with channel.conn_or_acquire() as client:
            client.zadd(channel.unacked_index_key, dict.fromkeys(tags, time()), xx=True)


def requeue_expired(channel: Any) -> None:
    """Give back what others have lost; kombu's own transport sees to it by itself."""
    if isinstance(channel, Leases) and channel.connection is not None:
        channel.requeue_expired()
