"""Deduplication: skip the duplicate check for messages that were checked when they were fetched.

This saves two Redis round trips for each delivery:

    fetch    the fetch command checks inbox, attempts and aborted flows of new messages, and records the attempt
             (tasks/transport/commands.py); the handler of a message that passed runs without a second check
    ack      if the handler published nothing, the acknowledgement marks the delivery in the inbox, many in one call

A check is valid for 1 s, which is shorter than a lease: messages that wait longer in the worker are checked again
before they run. Aborting a flow in this process invalidates its earlier checks. The process remembers the deliveries
that it handled, because their acknowledgements may not have marked them yet.
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any

from celery import bootsteps

from petiole.tasks.runtime import bus_of
from petiole.tasks.stores.keys import Keys
from petiole.tasks.transport.channel import BatchingChannel
from petiole.tasks.transport.delivery_log import DeliveryLog

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

MAX_CHECK_AGE_S = 1.0
"""How long the check of a fetch is valid, in seconds."""

_MAX_PENDING_MARKS = 1_000


class RecentDeliveries:
    """This process's memory of the deliveries of a bus: valid checks and handled ids."""

    def __init__(self, _: BusRuntime) -> None:
        self._handled_ids: deque[str] = deque(maxlen=_MAX_PENDING_MARKS)
        self._invalidated_at = float("-inf")

    def is_check_valid(self, checked_at: float) -> bool:
        """Return whether a delivery checked at that monotonic time may run unchecked; 0 means that it failed."""
        return checked_at > self._invalidated_at and monotonic() - checked_at < MAX_CHECK_AGE_S

    def invalidate_checks(self) -> None:
        """Invalidate all earlier checks, because this process aborted a flow."""
        self._invalidated_at = monotonic()

    def record_handled(self, delivery_id: str) -> None:
        """Record that this process handled a delivery, which its acknowledgement will mark."""
        self._handled_ids.append(delivery_id)

    def was_handled(self, delivery_id: str) -> bool:
        """Return whether this process handled a delivery recently."""
        return delivery_id in self._handled_ids.copy()


class DeduplicationStep(bootsteps.StartStopStep):
    """A step of the consumer that enables checks at fetch in its channel. Celery starts it at every reconnection."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._channel: BatchingChannel | None = None

    def start(self, consumer: Any) -> None:
        """Enable the checks before the first message is fetched."""
        channel, bus = consumer.task_consumer.channel, bus_of(consumer.app)
        if not isinstance(channel, BatchingChannel) or not bus.publishes_atomically or not _may_skip_check(bus):
            return
        channel.delivery_log = _delivery_log(bus, consumer.hostname)
        if self._channel is not None:
            channel.take_over_acks(self._channel)
        self._channel = channel


def _delivery_log(bus: BusRuntime, worker: str) -> DeliveryLog:
    keys = Keys(bus.settings.key_prefix)
    return DeliveryLog(
        inbox=keys.inbox(""),
        attempts=keys.attempts(""),
        aborted=keys.aborted("", "").removesuffix(":"),
        age_ms=int(bus.settings.inbox_retention_s * 1_000),
        worker=worker,
    )


def _may_skip_check(bus: BusRuntime) -> bool:
    # A fetch records only that the message was fetched. If one crash is the maximum, every start must be recorded.
    return bus.settings.max_delivery_crashes > 1
