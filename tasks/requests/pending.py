"""Pending: a request that waits for its answer, as a Celery AsyncResult."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import uuid4

from celery import states
from celery._state import get_current_task
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import AsyncResult
from pydantic_core import from_json
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from petiole.events import responses
from petiole.events.catalog.request import RequestEvent
from petiole.events.errors import RequestTimedOut, SystemStopping, requester_stopped, waiting_in_handler
from petiole.events.responses import Response
from petiole.tasks.handling.current import current_context
from petiole.tasks.publishing import claim_check
from petiole.tasks.stores.requests import Asking

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

    _Result = AsyncResult[Response[Any]]
else:
    _Result = AsyncResult

Answer = TypeVar("Answer")

SLICE_S = 0.5
"""How long is waited before looking whether this process ends."""

_SHORTEST_S = 0.01  # a blocking command takes 0 for ever, and rounds what is less than 1 ms to it


@dataclass(slots=True)
class _Waiting:
    """What this process knows about waiting on a bus: whether it was told to stop, and whether the system is closed."""

    bus: BusRuntime
    is_told_to_stop: bool = False
    asked_at: float = float("-inf")
    was_closed: bool = False

    def is_closed(self) -> bool:
        """Tell whether the system was shut down; asks at most once in half a slice."""
        if time.monotonic() - self.asked_at >= SLICE_S / 2:
            self.was_closed = self._ask()
            self.asked_at = time.monotonic()
        return self.was_closed

    def _ask(self) -> bool:
        try:
            self.bus.check_open(asks=True)
        except SystemStopping:
            return True
        except (RedisConnectionError, RedisTimeoutError):
            # Nobody can tell: who waits goes on until the deadline.
            return False
        return False


def stop_waiting(bus: BusRuntime) -> None:
    """Let everybody in this process who waits for an answer go, with a failure, in less than a second. For good."""
    bus.resource(_Waiting).is_told_to_stop = True


def is_stopping(bus: BusRuntime) -> bool:
    """Tell whether this process ends, or was told to wait no longer."""
    # Python joins threads before it calls what is registered to run at its end: who waits has to notice by itself.
    is_ending: bool = getattr(threading, "_SHUTTING_DOWN", False)
    return bus.resource(_Waiting).is_told_to_stop or is_ending or not threading.main_thread().is_alive()


def is_let_go(bus: BusRuntime) -> bool:
    """Tell whether nobody here is to wait any longer: this process ends, or the system was shut down."""
    return is_stopping(bus) or bus.resource(_Waiting).is_closed()


@dataclass(frozen=True, slots=True)
class Asked:
    """A request with its deadline: after so many seconds, at that moment of the monotonic clock."""

    event: RequestEvent
    timeout_s: float
    ends_at: float
    token: str = field(default_factory=lambda: str(uuid4()))

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self.event.content.request_id

    def asking(self, reply_to: str) -> Asking:
        """Say who waits: who reads that list."""
        said = self.event.content
        return Asking(said.request_type, said.request_id, said.responder, self.token, self.timeout_s, reply_to)

    def timed_out(self, after_s: float | None = None) -> RequestTimedOut:
        """Word that no answer came."""
        content = self.event.content
        return TimedOut(content.request_type, content.responder, round(after_s or self.timeout_s, 3))


class TimedOut(RequestTimedOut, CeleryTimeoutError):  # noqa: N818 - as all of ours
    """RequestTimedOut, for those who expect Celery's TimeoutError of an AsyncResult too."""


class _NoBackend:
    """What Celery asks of a result's backend, where results are no results of tasks."""

    supports_native_join = False

    def add_pending_result(self, result: object, **_: object) -> None:
        """Do nothing: a result tells by itself when it is there."""

    def remove_pending_result(self, result: object) -> None:
        """Do nothing: nothing was added."""


class PendingResponse(_Result, Generic[Answer]):
    """A request under way. Safe to use from several threads; of which one at a time waits."""

    def __init__(
        self,
        bus: BusRuntime,
        asked: Asked,
        returns: type[Answer] | None = None,
        *,
        on_wait: Callable[[], bool] = lambda: False,
        slice_s: float = SLICE_S,
    ) -> None:
        super().__init__(asked.request_id, backend=_NoBackend(), app=bus.app)  # type: ignore[arg-type]  # all it is asked
        self._bus = bus
        self.request = asked.event
        self._asked = asked
        self._returns = returns
        self._on_wait = on_wait
        self._slice_s = slice_s
        self._waiting = threading.RLock()
        self._response: Response[Answer] | None = None

    def get(
        self, timeout: float | None = None, *_: Any, disable_sync_subtasks: bool = True, **__: Any
    ) -> Response[Answer]:
        """Wait for the answer, until the request's deadline or `timeout` (s). Celery's other options mean nothing here.

        Raises: RequestTimedOut, which is Celery's TimeoutError too; after the deadline the request is given up.
        UsageError (waiting_in_handler) inside a handler; RuntimeError inside another task of Celery's, as an
        AsyncResult does.
        """
        self._check_may_wait(disable_sync_subtasks)
        ends_at = self._asked.ends_at if timeout is None else min(self._asked.ends_at, time.monotonic() + timeout)
        with self._waiting:
            while self._response is None:
                left_s = ends_at - time.monotonic()
                if is_let_go(self._bus):
                    self._stop()
                elif left_s <= 0 or self._on_wait():
                    self._end(given_up=left_s > 0 or ends_at >= self._asked.ends_at, timeout_s=timeout)
                else:
                    self._take(max(_SHORTEST_S, min(left_s, self._slice_s)))
            return self._response

    wait = get

    def forget(self) -> None:
        """Wait no longer. An answer that comes is late."""
        if self._response is None:
            self._bus.stores.requests.forget(self._asked.request_id, self._asked.token)

    def ready(self) -> bool:
        """Tell whether there is an answer."""
        return self.response is not None

    @property
    def response(self) -> Response[Answer] | None:
        """The answer, if it is there."""
        with self._waiting:
            if self._response is None:
                self._take(0)
            return self._response

    def _get_task_meta(self) -> dict[str, Any]:
        found = self.response
        state = states.PENDING if found is None else states.SUCCESS if found.ok else states.FAILURE
        return {"status": state, "result": found, "traceback": None, "children": [], "task_id": self.id}

    def _check_may_wait(self, disable_sync_subtasks: bool) -> None:  # noqa: FBT001 - Celery's
        context = current_context()
        if context is not None:
            raise waiting_in_handler(self.request.content.request_type, context.subscription.name)
        # Celery's own mark is one for the whole process: a worker in another thread sets it too.
        if disable_sync_subtasks and get_current_task() is not None:
            raise RuntimeError("Never wait for an answer within a task: it keeps a slot from those who may give it")

    def _take(self, wait_s: float) -> None:
        try:
            text = self._bus.stores.requests.take(self._asked.request_id, wait_s)
        except (RedisConnectionError, RedisTimeoutError):
            # The answer stays where it is: it is looked for until the deadline.
            time.sleep(min(wait_s, 0.2))
            return
        if text is not None:
            self._keep(read_response(self._bus, self._asked, text, self._returns))

    def _keep(self, response: Response[Answer]) -> None:
        self._response = response
        self.on_ready(self)

    def _end(self, *, given_up: bool, timeout_s: float | None) -> None:
        """Give up, unless the answer came in the last moment. Raises RequestTimedOut."""
        if not given_up:
            raise self._asked.timed_out(timeout_s)
        overdue = self._asked.timed_out()
        try:
            if not self._bus.stores.requests.forget(self._asked.request_id, self._asked.token):
                self._take(0)
        except RedisError as error:
            raise overdue from error
        if self._response is None:
            raise overdue

    def _stop(self) -> None:
        self._keep(read_response(self._bus, self._asked, None, self._returns))
        try:
            self._bus.stores.requests.forget(self._asked.request_id, self._asked.token)
        except RedisError:
            return  # it expires


def read_response(
    bus: BusRuntime, asked: Asked, text: str | None, returns: type[Answer] | None = None
) -> Response[Answer]:
    """Read an answer as it was handed over; without one, this process ends."""
    if text is None:
        return responses.unanswered(asked.event, requester_stopped(asked.event.content.request_type))
    document = claim_check.whole(bus, from_json(text))
    assert isinstance(document, dict)  # noqa: S101 - an event of ours
    return responses.response(bus.event_registry.parse(document), returns)
