"""Acknowledgements: a consumer acknowledges its deliveries, or gives them back to their queues. Threads may do both."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from threading import Lock
from time import monotonic
from typing import Any

from petiole.tasks.transport.ack_sender import MAX_ACK_DELAY_S, AckSender
from petiole.tasks.transport.client import ClientChannel
from petiole.tasks.transport.commands import GiveBack
from petiole.tasks.transport.consumer_state import ConsumerState
from petiole.tasks.transport.loop_waker import LoopWaker

MAX_PENDING_ACKS = 200


class Acknowledgements(ClientChannel):
    """A channel that sends acknowledgements with its fetches, or within MAX_ACK_DELAY_S."""

    leased: ConsumerState

    def __init__(self, *args: Any, **options: Any) -> None:
        self.leased = ConsumerState()
        self.running_tags: Callable[[], Collection[str]] = set
        self._acked_at = 0.0
        self._collecting = Lock()
        self._ack_sender: AckSender | None = None
        self._waker: LoopWaker | None = None
        self._is_fetch_delayed = False
        super().__init__(*args, **options)

    def ending_tags(self) -> list[str]:
        """Return the tags of the deliveries whose acks have not arrived for certain. Any thread may call it."""
        return [*self.leased.acks, *self.leased.acks_sent]

    def take_over(self, previous: Acknowledgements) -> None:
        """Continue as the consumer whose connection was lost; what its slots run stays leased, the rest returns."""
        self.leased = previous.leased
        self.use_consumer_id(self.leased.consumer_id)
        self.leased.acks[:0] = self.leased.acks_sent
        self.leased.acks_sent, self.leased.first_tag_sent = [], None
        self.give_back_unsettled()

    def acknowledge(self, tag: str) -> None:
        """Acknowledge a delivery with the next fetch, or now if there is no event loop. Any thread may call it."""
        leased = self.leased
        if not leased.acks:
            self._acked_at = monotonic()
        leased.acks.append(tag)
        leased.settle((tag,))
        if self.closed or self.connection is None:
            # The worker's next channel sends it.
            return
        # While the channel blocks on a wake-up key, no fetch follows before the wake-up.
        is_waiting = self._request == "wakeup" and self._in_poll
        is_without_fetch = not self._is_in_loop or not self._consumers or self._closing
        if is_without_fetch or is_waiting or len(leased.acks) >= MAX_PENDING_ACKS:
            self.send_acks()
        elif self._ack_sender is not None:
            self._ack_sender.notify()
        elif self._waker is not None and not self._in_poll:
            self._waker.wake()

    def start_ack_sender(self) -> None:
        """Send acks from a thread while a handler blocks the event loop."""
        self._ack_sender = AckSender(self.send_acks, self.connection_errors)

    def wake_loop_by_acks(self) -> None:
        """Wake the event loop when another thread has ended a delivery: it may fetch the next one."""
        if self._is_in_loop:
            self._waker = LoopWaker(self.connection.loop)

    def stop_sending_acks(self) -> None:
        """Stop the thread that sends acks, and waking the event loop."""
        if self._ack_sender is not None:
            self._ack_sender.close()
        if self._waker is not None:
            self._waker.close()

    def _send_overdue_acks(self) -> None:
        """Send acks that have waited too long, for example while a handler blocked the event loop."""
        if self.leased.acks and monotonic() - self._acked_at > MAX_ACK_DELAY_S:
            self.send_acks()

    def send_pending_acks(self) -> None:
        """Send acks before the event loop waits, unless a fetch is outstanding or will follow."""
        is_fetching = self._in_poll and self._request == "fetch"
        if self.leased.acks and not is_fetching and not self._is_fetch_delayed:
            self.send_acks()

    def send_acks(self) -> None:
        """Send the acks now."""
        acks = self._collect_acks()
        try:
            if acks:
                self._commands.fetch([], 0, 0, acks)
        except self.connection_errors:
            self.leased.acks.extend(acks)
            raise

    def _collect_acks(self) -> list[str]:
        pending = self.leased.acks
        with self._collecting:
            # Other threads may append to the list at the same time.
            count = len(pending)
            acks, pending[:count] = pending[:count], []
        return acks

    def give_back(self, tags: Sequence[str], way: GiveBack) -> None:
        """Return deliveries to their queues, in the order of their tags; if that fails, with the next heartbeat."""
        try:
            self._commands.give_back(sorted(tags, key=int), way)
        except self.connection_errors:
            self.leased.returns.append((tags, way))
            raise
        self.leased.settle(tags)

    def give_back_again(self) -> None:
        """Return the deliveries that could not be returned. Any thread may call it."""
        returns = self.leased.returns
        for _ in range(len(returns)):
            with suppress(IndexError):
                self.give_back(*returns.popleft())

    def give_back_unsettled(self) -> None:
        """Return the deliveries that were handed over, are not settled, and do not run."""
        # First, those of crashed processes: returned as the others, their crash would not count.
        self.give_back_again()
        self.give_back(list(self.leased.unsettled - set(self.running_tags())), "unread")
