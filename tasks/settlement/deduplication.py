"""Admissions: what the step that took a message says of its delivery, which spares a delivery its own round trips.

    taken       the turn that moves the message here looks into the inbox, the runs and the aborted flows, and notes
                that it was taken (transport/scripts/fetch.lua). A delivery that comes for the first time, and that
                nothing speaks against, is *admitted*: its handler may run without asking again
    handled     and it said nothing: the acknowledgement marks the delivery in the inbox, many in one step

An admission holds for a second, which is shorter than the silence after which others take what a worker holds: what
waits longer in this worker asks again, when it runs. A process that has an agent's work aborted asks from then on. What
this process handled, and its acknowledgement may not have marked yet, it knows by itself.
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
"""How long a worker goes by what it was told when it took a message."""

_MAX_PENDING_MARKS = 1_000


class RecentDeliveries:
    """What this process knows by itself of the deliveries of a bus."""

    def __init__(self, _: BusRuntime) -> None:
        self._handled_ids: deque[str] = deque(maxlen=_MAX_PENDING_MARKS)
        self._invalidated_at = float("-inf")

    def is_check_valid(self, checked_at: float) -> bool:
        """Tell whether a delivery that was admitted then (0: it was not) may run without asking again."""
        return checked_at > self._invalidated_at and monotonic() - checked_at < MAX_CHECK_AGE_S

    def invalidate_checks(self) -> None:
        """Go by no admission of before: something that speaks against a delivery was recorded in this process."""
        self._invalidated_at = monotonic()

    def record_handled(self, delivery_id: str) -> None:
        """Record that a delivery was handled here, and that its acknowledgement marks it."""
        self._handled_ids.append(delivery_id)

    def was_handled(self, delivery_id: str) -> bool:
        """Tell whether a delivery was handled here a moment ago."""
        return delivery_id in self._handled_ids.copy()


class DeduplicationStep(bootsteps.StartStopStep):
    """The step of a worker's consumer that has its channel keep a ledger. Celery starts it at every reconnection."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._channel: BatchingChannel | None = None

    def start(self, consumer: Any) -> None:
        """Begin, before the first message is taken."""
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
    # Where the first death is one too many, nothing may begin that is not noted as begun.
    return bus.settings.max_delivery_crashes > 1
