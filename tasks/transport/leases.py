"""Leases: a consumer leases what it fetches; the deliveries of a consumer that was lost return to their queues.

A consumer is one process. What it has fetched stands in one hash of the broker, under delivery tags that it counts
itself. Whoever removes a tag from the hash moves the delivery, so a late acknowledgement has no effect.

`renew` sends a heartbeat every second. The reply tells how many leases the broker knows: after a lost reply or a
restored broker both sides are compared. It also names consumers without a heartbeat for `consumer_timeout`:

    twice without a connection of that name     the process has ended: its deliveries return at once
    a connection                                it may have been stopped: they return after `visibility_timeout`
    connections cannot be listed                they return after `visibility_timeout`

After a pause of the server or of this process, all other consumers seem to have missed their heartbeats. So a process
that missed its own heartbeats expires no others until one `consumer_timeout` has passed, and one that has just started
asks whether the server has just started, too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from time import monotonic
from typing import Any

from redis.exceptions import ResponseError

from petiole.tasks.stores.connections import ServerRefused
from petiole.tasks.transport.client import ClientChannel
from petiole.tasks.transport.commands import Renewal
from petiole.tasks.transport.consumer_id import is_connected

logger = logging.getLogger(__name__)

HEARTBEAT_INTERVAL_S = 1.0

# Longer than any worker waits between two tries to connect.
_RECONNECT_TIME_S = 5

# Transport options in addition to kombu's.
LEASE_OPTIONS = ("consumer_timeout", "stock_visibility_timeout", "state_prefix")

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def lease_clock() -> float:
    """Return the time in seconds of a clock of this machine that continues while the machine is suspended."""
    return time.clock_gettime(_CLOCK)


class Leases(ClientChannel):
    """A channel of kombu's that renews its leases, and expires those of lost consumers."""

    visibility_timeout = 15
    # Kombu restores only messages of stock workers here.
    unacked_restore_interval: float = 60
    unacked_restore_throttle: float = 1
    socket_timeout: float = 10.0
    socket_connect_timeout: float = 5.0
    socket_keepalive: bool = True

    consumer_timeout: float = 2.5
    stock_visibility_timeout: float = 3600.0
    leased_tags: Callable[[], list[str]]
    waiting_tags: Callable[[], list[str]]
    ending_tags: Callable[[], list[str]]
    forget_leases: Callable[[Collection[str]], None]
    is_known: Callable[[str], bool]
    give_back_again: Callable[[], None]
    give_back_excess: Callable[[], None]

    def __init__(self, *args: Any, **options: Any) -> None:
        self._contact_at = self._connected_since = float("-inf")
        self.confirmed_at = float("-inf")
        self._is_registered = False
        self._has_started = True
        # Tags that the broker does not know, and since when: a commit ends a lease before its worker knows of it.
        self._missing: dict[str, float] = {}
        # Tags that this process did not know: a fetch leases before it is read.
        self._unknown: set[str] = set()
        self._unconnected: set[str] = set()
        super().__init__(*args, **options)

    def renew(self) -> None:
        """Send a heartbeat, compare the leases if their number differs, and expire those of lost consumers.

        Any thread may call it.
        """
        self.give_back_again()
        self.give_back_excess()
        began_at = lease_clock()
        known = self.leased_tags()
        renewal = self._commands.renew(self.consumer_timeout)
        was_registered, self._is_registered = self._is_registered, True
        self._record_contact()
        count = renewal.leases
        if count < 0 and not was_registered:
            count = len(self._commands.leased_tags())
        if count != len(known) + len(self.ending_tags()):
            self._compare(known)
        else:
            self._missing, self._unknown = {}, set()
        self.confirmed_at = began_at
        self._expire_lost(renewal)

    def is_lease_confirmed(self) -> bool:
        """Return whether the broker has confirmed the leases within a third of their time."""
        return lease_clock() - self.confirmed_at < self.visibility_timeout / 3

    def unregister(self) -> None:
        """Remove this process from the consumers that are watched for missing heartbeats."""
        if self._is_registered:
            self._is_registered = False
            self._commands.unregister()

    def _expire_lost(self, renewal: Renewal) -> None:
        """Return the deliveries of lost consumers to their queues.

        A consumer without a connection is lost if that is seen twice: its process may be about to reconnect.
        """
        unconnected = self._find_unconnected([consumer for consumer, _ in renewal.silent])
        for consumer, heartbeat in renewal.silent:
            is_gone = consumer in unconnected and consumer in self._unconnected
            is_expired = renewal.now - float(heartbeat) > self.visibility_timeout and self._is_steady()
            if is_gone or is_expired:
                count = self._commands.expire(consumer, heartbeat)
                logger.warning("consumer.lost", extra={"consumer": consumer, "deliveries": max(count, 0)})
        self._unconnected = unconnected

    def _compare(self, known: Sequence[str]) -> None:
        """Forget deliveries whose lease was lost, and return those that this process does not know of."""
        at_broker = self._commands.leased_tags()
        known_now = set(self.leased_tags())
        # A delivery that was fetched or settled during the calls is in one of the two only.
        missing = (set(known) & known_now) - set(at_broker)
        now = lease_clock()
        self._missing = {tag: self._missing.get(tag, now) for tag in missing}
        waiting = set(self.waiting_tags())
        if lost := [
            tag for tag, since in self._missing.items() if tag in waiting or now - since > self.visibility_timeout / 3
        ]:
            logger.warning("lease.lost", extra={"deliveries": len(lost)})
            self.forget_leases(lost)
        unknown = (
            {tag for tag in at_broker if not self.is_known(tag)} - known_now - set(known) - set(self.ending_tags())
        )
        if unknown & self._unknown:
            self._commands.give_back(sorted(unknown & self._unknown, key=int), "unread")
        self._unknown = unknown

    def _find_unconnected(self, consumers: Sequence[str]) -> set[str]:
        """Return those consumers whose processes have no connection."""
        if not consumers or not self._may_judge():
            return set()
        try:
            clients: Any = self._commands.client.client_list()
        except (ResponseError, ServerRefused):
            # An account without the right to list connections.
            return set()
        names = {client["name"] for client in clients}
        return {consumer for consumer in consumers if not is_connected(consumer, names)}

    def _after_fork(self) -> None:
        self._is_registered = False
        super()._after_fork()

    def _record_contact(self) -> None:
        is_first = self._contact_at == float("-inf")
        was_in_touch, self._contact_at = self._is_connected(), monotonic()
        if not was_in_touch:
            self._connected_since, self._has_started = self._contact_at, is_first

    def _is_connected(self) -> bool:
        return monotonic() - self._contact_at < self.consumer_timeout / 2

    def _may_judge(self) -> bool:
        """Return whether the others had time to reconnect if the server, or the way to it, was interrupted."""
        if self._is_steady():
            return True
        # A process that has just started knows of no interruption; the server knows of its own start.
        return self._has_started and self._commands.uptime_s() > _RECONNECT_TIME_S

    def _is_steady(self) -> bool:
        """Return whether this process has been in touch for so long that others could send heartbeats, too."""
        return self._is_connected() and monotonic() - self._connected_since > self.consumer_timeout


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
