"""Leases: a consumer leases what it fetches; the deliveries of a consumer that was lost return to their queues.

A consumer is one process. What it has fetched stands in one hash of the broker, under delivery tags that it counts
itself. Whoever removes a tag from the hash moves the delivery, so a late acknowledgement has no effect.

`renew` sends a heartbeat twice a second. The reply tells how many leases the broker knows: after a lost reply or a
restored broker both sides are compared. `expire_lost` looks for consumers without a heartbeat for `consumer_timeout`:

    no connection with the consumer's name      its process has ended: its deliveries return at once
    a connection                                it may have been stopped: they return after `visibility_timeout`
    connections cannot be listed                they return after `visibility_timeout`

After a pause of the server or of this process, all other consumers seem to have missed their heartbeats. So a process
that missed its own heartbeats must not expire others until one `consumer_timeout` has passed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from time import monotonic
from typing import Any

from redis.exceptions import ResponseError

from petiole.tasks.transport.client import ClientChannel
from petiole.tasks.transport.consumer_id import is_connected

logger = logging.getLogger(__name__)

# Transport options in addition to kombu's.
LEASE_OPTIONS = ("consumer_timeout", "stock_visibility_timeout", "state_prefix")

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def lease_clock() -> float:
    """Return the time in seconds of a clock of this machine that continues while the machine is suspended."""
    return time.clock_gettime(_CLOCK)


class Leases(ClientChannel):
    """A channel of kombu's that renews its leases, and expires those of lost consumers."""

    visibility_timeout = 15
    # With kombu's defaults, the messages of a crashed stock worker are requeued about every 100 s.
    unacked_restore_interval: float = 1
    unacked_restore_throttle: float = 1
    socket_timeout: float = 10.0
    socket_connect_timeout: float = 5.0
    socket_keepalive: bool = True

    consumer_timeout: float = 2.0
    stock_visibility_timeout: float = 3600.0
    leased_tags: Callable[[], list[str]]
    forget_leases: Callable[[Collection[str]], None]
    is_known: Callable[[str], bool]
    give_back_again: Callable[[], None]

    def __init__(self, *args: Any, **options: Any) -> None:
        self._contact_at = self._connected_since = self._expired_at = float("-inf")
        self.confirmed_at = float("-inf")
        self._is_registered = False
        self._unknown: set[str] = set()
        super().__init__(*args, **options)

    def renew(self) -> None:
        """Send a heartbeat, and compare the leases if their number differs. Any thread may call it."""
        self.give_back_again()
        began_at = lease_clock()
        known = self.leased_tags()
        count = self._commands.renew()
        was_registered, self._is_registered = self._is_registered, True
        self._record_contact()
        if count < 0 and not was_registered:
            count = len(self._commands.leased_tags())
        if count != len(known):
            self._compare(known)
        self.confirmed_at = began_at

    def is_lease_confirmed(self) -> bool:
        """Return whether the broker has confirmed the leases within a third of their time."""
        return lease_clock() - self.confirmed_at < self.visibility_timeout / 3

    def unregister(self) -> None:
        """Remove this process from the consumers that are watched for missing heartbeats."""
        if self._is_registered:
            self._is_registered = False
            self._commands.unregister()

    def expire_lost(self) -> None:
        """Return the deliveries of lost consumers to their queues, at most once per restore interval."""
        if monotonic() - self._expired_at < 0.9 * self.unacked_restore_interval or not self._may_expire_others():
            return
        self._expired_at = monotonic()
        silent = self._commands.silent_consumers(self.consumer_timeout)
        if not silent:
            return
        connected = self._connected_consumers()
        for consumer, heartbeat in silent:
            is_gone = connected is not None and not is_connected(consumer, connected)
            # Checked again, because the server may have paused before it replied.
            if self._may_expire_others() and (is_gone or self._is_expired(heartbeat)):
                count = self._commands.expire(consumer, heartbeat)
                logger.warning("consumer.lost", extra={"consumer": consumer, "deliveries": max(count, 0)})

    def _compare(self, known: Sequence[str]) -> None:
        """Forget deliveries whose lease was lost, and return those that this process does not know of."""
        at_broker = self._commands.leased_tags()
        known_now = set(self.leased_tags())
        # A delivery that was fetched or settled during the calls is in one of the two only.
        lost = (set(known) & known_now) - set(at_broker)
        if lost:
            logger.warning("lease.lost", extra={"deliveries": len(lost)})
            self.forget_leases(lost)
        unknown = {tag for tag in at_broker if not self.is_known(tag)} - known_now - set(known)
        if unknown & self._unknown:
            self._commands.give_back(sorted(unknown & self._unknown, key=int), "unread")
        self._unknown = unknown

    def _connected_consumers(self) -> set[str] | None:
        try:
            clients: Any = self._commands.client.client_list()
        except ResponseError:
            # An account without the right to list connections.
            return None
        return {client["name"] for client in clients}

    def _is_expired(self, heartbeat: str) -> bool:
        seconds, microseconds = self._commands.client.time()
        return seconds + microseconds / 1_000_000 - float(heartbeat) > self.visibility_timeout

    def _after_fork(self) -> None:
        self._is_registered = False
        super()._after_fork()

    def _record_contact(self) -> None:
        was_in_touch, self._contact_at = self._is_connected(), monotonic()
        if not was_in_touch:
            self._connected_since = self._contact_at

    def _is_connected(self) -> bool:
        return monotonic() - self._contact_at < self.consumer_timeout / 2

    def _may_expire_others(self) -> bool:
        """Return whether others may be considered lost."""
        is_steady = monotonic() - self._connected_since > self.consumer_timeout
        return not self._is_registered or (self._is_connected() and is_steady)


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
            client.zadd(channel.unacked_index_key, dict.fromkeys(tags, time.time()), xx=True)


def expire_lost(channel: Any) -> None:
    """Return the deliveries of lost consumers. Kombu's own transport restores messages without a call."""
    if isinstance(channel, Leases) and channel.connection is not None:
        channel.expire_lost()
