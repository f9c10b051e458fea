"""Leases: each consumer renews the leases on its messages; messages whose lease has expired are requeued.

`renew`, called twice a second, is a consumer's heartbeat. Every third of the visibility timeout it also renews the
lease on each message. `requeue_expired` moves back to their queues:

- messages of a consumer without a heartbeat for `consumer_timeout`,
- messages that a running consumer does not renew, for example because the reply to its fetch was lost,
- messages that a stock worker fetched longer ago than `stock_visibility_timeout`.

After a pause of the server or of this process, all other consumers seem to have missed their heartbeats. So a process
that missed its own heartbeats must not expire others until one `consumer_timeout` has passed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic, time
from typing import Any

from petiole.tasks.transport.commands import LeaseTimeouts
from petiole.tasks.transport.requeue import RequeueChannel

logger = logging.getLogger(__name__)

# Transport options in addition to kombu's.
LEASE_OPTIONS = ("consumer_timeout", "stock_visibility_timeout")

# Messages requeued in one sweep; kombu's restore has no limit.
MAX_REQUEUED = 500


class Leases(RequeueChannel):
    """A channel of kombu's that renews its leases, and requeues messages whose lease has expired."""

    visibility_timeout = 15
    # With kombu's defaults, the messages of a crashed worker are requeued about every 100 s.
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
        """Send a heartbeat, and renew the leases if they are due. Any thread may call it."""
        began_at = monotonic()
        is_due = not self._is_connected() or began_at - self._renewed_at >= self.visibility_timeout / 3
        lost = self._commands.renew(self.leased_tags() if is_due else [])
        self._record_contact()
        if is_due:
            self._renewed_at = began_at
            self._log_lost(lost)

    def unregister(self) -> None:
        """Remove this process from the consumers that are watched for missing heartbeats."""
        if self._is_registered:
            self._is_registered = False
            self._commands.unregister()

    def requeue_expired(self, limit: int | None = None, *, every: int = 1) -> None:
        """Requeue up to `limit` messages with expired leases, at most once per restore interval."""
        if (
            monotonic() - self._requeued_at < 0.9 * every * self.unacked_restore_interval
            or not self._may_expire_others()
        ):
            return
        self._requeued_at = monotonic()
        silence = self.consumer_timeout if self._is_registered else 0
        ages = LeaseTimeouts(self.visibility_timeout, self.stock_visibility_timeout, silence)
        silent_before, expired = self._commands.find_expired(ages, limit or MAX_REQUEUED)
        # Checked again, because the server may have paused before it replied.
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
        """Return whether others may be considered lost. A consumer that never renews only compares lease ages."""
        is_steady = monotonic() - self._connected_since > self.consumer_timeout
        return not self._is_registered or (self._is_connected() and is_steady)

    def _log_lost(self, lost: list[str]) -> None:
        # A message that was settled during the call is not lost.
        still_lost = set(lost) & set(self.leased_tags())
        if newly_lost := still_lost - self._lost:
            logger.warning("lease.lost", extra={"deliveries": len(newly_lost)})
        self._lost = still_lost


def renew_leases(channel: Any) -> None:
    """Renew the leases of a channel, ours or kombu's own for Redis. Other brokers have no leases."""
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
    """Requeue messages with expired leases. Kombu's own transport does so without a call."""
    if isinstance(channel, Leases) and channel.connection is not None:
        channel.requeue_expired()
