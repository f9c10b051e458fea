"""A Celery worker in a thread, over a memory transport that nobody else hears."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from celery._state import _set_task_join_will_block  # type: ignore[attr-defined]  # the stubs leave it out
from celery.worker import WorkController
from kombu.transport import memory, virtual

from petiole.tasks.celery import EventApp
from petiole.tasks.transport.message import Message

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 10.0


class Traffic:
    """How many messages were sent and not yet settled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way = 0

    def count(self, change: int) -> None:
        """Note messages sent (1) or settled (-1)."""
        with self._lock:
            self._under_way += change

    def is_still(self) -> bool:
        """Tell whether nothing is under way."""
        return self._under_way == 0


def private_transport(traffic: Traffic) -> type[memory.Transport]:
    """Make a memory transport of its own. Kombu's keeps its queues in class attributes, which all apps share."""

    class PrivateChannel(memory.Channel):
        Message = Message
        queues: dict[str, Any] = {}  # noqa: RUF012 - shared by the channels of this one transport, as in kombu
        events: defaultdict[str, set[Any]] = defaultdict(set)  # noqa: RUF012 - as above

        def _put(self, queue: str, message: Any, **options: Any) -> None:
            traffic.count(1)
            super()._put(queue, message, **options)

        def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's
            super().basic_ack(delivery_tag, multiple)
            traffic.count(-1)

        def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's
            super().basic_reject(delivery_tag, requeue)
            traffic.count(-1)

        def close(self) -> None:
            # Kombu's forgets all queues when one channel closes; the worker's outlive the publisher's.
            virtual.Channel.close(self)

    class PrivateTransport(memory.Transport):
        Channel = PrivateChannel
        global_state = virtual.BrokerState()

    return PrivateTransport


class EmbeddedWorker:
    """One worker with one slot, in a thread of this process."""

    def __init__(self, app: EventApp, queues: Sequence[str]) -> None:
        self._app = app
        self._hostname = f"harness@{id(self)}"
        self._is_ready = threading.Event()
        self._worker = _Controller(
            self._is_ready,
            app=app,
            hostname=self._hostname,
            pool_cls="solo",
            concurrency=1,
            loglevel="WARNING",
            queues=list(queues),
            without_heartbeat=True,
            without_mingle=True,
            without_gossip=True,
        )
        self._thread = threading.Thread(target=self._work, name="petiole-harness", daemon=True)

    def start(self) -> None:
        """Start, and wait until queues are consumed. Raises TimeoutError."""
        self._thread.start()
        if not self._is_ready.wait(START_TIMEOUT_S):
            raise TimeoutError(f"the embedded worker did not start within {START_TIMEOUT_S} s")
        # A worker's start says so for its whole process, in which here a test waits for results.
        _set_task_join_will_block(False)  # noqa: FBT003 - Celery's signature

    def stop(self) -> None:
        """Stop after the delivery at hand. Raises TimeoutError where a handler does not return."""
        # By remote control: Celery's own flags for stopping are global and would stop other harnesses' workers.
        self._app.control.shutdown(destination=[self._hostname])
        self._thread.join(STOP_TIMEOUT_S)
        if self._thread.is_alive():
            raise TimeoutError(f"the embedded worker did not stop within {STOP_TIMEOUT_S} s; is a handler blocked?")

    def _work(self) -> None:
        # The solo pool runs tasks in this thread; they find their app by it.
        self._app.set_current()
        self._worker.start()


class _Controller(WorkController):
    def __init__(self, is_ready: threading.Event, **options: Any) -> None:
        self._is_ready = is_ready
        super().__init__(**options)

    def on_consumer_ready(self, consumer: object) -> None:  # noqa: ARG002 - Celery's signature
        self._is_ready.set()
