"""Queue sources: from which lists a channel fetches, and on which keys it waits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from petiole.tasks.transport.client import ClientChannel
from petiole.tasks.transport.commands import QueueSource


class QueueSources(ClientChannel):
    """A channel that fetches from its queues, and from their lists of parked deliveries."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.parked_lists: Sequence[tuple[str, str]] = ()
        """Queues with lists of parked deliveries that this process can run; any thread may replace it."""
        self._unacknowledged_queues: set[str] = set()
        super().__init__(*args, **options)

    def basic_consume(self, queue: str, no_ack: bool = False, *args: Any, **options: Any) -> Any:  # noqa: FBT001, FBT002 - kombu's
        """Consume a queue; with `no_ack`, its messages are not recorded as unacknowledged."""
        if no_ack:
            self._unacknowledged_queues.add(queue)
        else:
            self._unacknowledged_queues.discard(queue)
        return super().basic_consume(queue, no_ack, *args, **options)

    def _source(self, queue: str, *, is_leased: bool | None = None) -> QueueSource:
        if is_leased is None:
            is_leased = queue not in self._unacknowledged_queues and self.ack_emulation
        lists = [self._key(self._q_for_pri(queue, step)) for step in self.priority_steps]
        return QueueSource(queue, self._queue_keys(queue), lists, is_leased)

    def _parked_sources(self, queues: Sequence[str]) -> list[QueueSource]:
        """Return the lists of parked deliveries that this process can run, of queues that it consumes."""
        return [
            QueueSource(
                queue,
                lists,
                [f"{lists}:messages"] * len(self.priority_steps),
                is_leased=True,
                returns_to=self._queue_keys(queue),
            )
            for queue, lists in self.parked_lists
            if queue in queues
        ]

    def _queue_keys(self, queue: str) -> str:
        return self._keys.queue(queue)

    def _wakeup_key(self, queue: str) -> str:
        return f"{self._queue_keys(queue)}:wakeup"

    @property
    def _own_wakeup_key(self) -> str:
        return self._keys.consumer_wakeup(self.consumer_id)
