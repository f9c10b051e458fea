"""PendingResponse: the reply to a request in the form of a Celery AsyncResult."""

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
from pydantic import ValidationError
from pydantic_core import from_json
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from petiole.events import responses
from petiole.events.arguments import check_argument
from petiole.events.catalog.request import RequestEvent
from petiole.events.errors import PetioleError, RequestTimedOut, SystemStopping, requester_stopped, waiting_in_handler
from petiole.events.ids import stored_request_id
from petiole.events.responses import Response
from petiole.events.validation import invalid_reply
from petiole.tasks.handling.current import current_context
from petiole.tasks.publishing import claim_check
from petiole.tasks.stores.requests import ReplyRegistration

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

    _Result = AsyncResult[Response[Any]]
else:
    _Result = AsyncResult

ValueT = TypeVar("ValueT")

WAIT_SLICE_S = 0.5
"""How long a wait blocks before it checks whether this process is stopping."""

_MIN_WAIT_S = 0.01  # a blocking command waits for ever with 0, and rounds less than 1 ms down to 0


@dataclass(slots=True)
class _Waiting:
    """Whether waiting on a bus has to stop: `stop_waiting` was called, or the system was shut down."""

    bus: BusRuntime
    stop_requested: bool = False
    checked_at: float = float("-inf")
    was_closed: bool = False

    def is_closed(self) -> bool:
        """Return whether the system was shut down. Queries the store at most every half slice."""
        if time.monotonic() - self.checked_at >= WAIT_SLICE_S / 2:
            self.was_closed = self._query_closed()
            self.checked_at = time.monotonic()
        return self.was_closed

    def _query_closed(self) -> bool:
        try:
            self.bus.check_accepting(is_forced=True)
        except SystemStopping:
            return True
        except (RedisConnectionError, RedisTimeoutError):
            # The state is unknown, so pending requests wait until their deadline.
            return False
        return False


def stop_waiting(bus: BusRuntime) -> None:
    """Cancel all pending requests of this process within a second, with a failure. Later requests fail too."""
    bus.resource(_Waiting).stop_requested = True


def is_stopping(bus: BusRuntime) -> bool:
    """Return whether this process is ending, or `stop_waiting` was called."""
    # Python joins threads before it calls atexit functions, so a waiting thread has to detect the end itself.
    is_ending: bool = getattr(threading, "_SHUTTING_DOWN", False)
    return bus.resource(_Waiting).stop_requested or is_ending or not threading.main_thread().is_alive()


def should_stop_waiting(bus: BusRuntime) -> bool:
    """Return whether pending requests have to be cancelled: this process is stopping, or the system was shut down."""
    return is_stopping(bus) or bus.resource(_Waiting).is_closed()


def _stop_error(bus: BusRuntime, request_type: str) -> PetioleError:
    """Build the error of a request that was cancelled, because its process or the whole system is stopping."""
    if not is_stopping(bus) and bus.resource(_Waiting).was_closed:
        return SystemStopping(bus.settings.key_prefix, request_type)
    return requester_stopped(request_type)


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """A request with its deadline. `ends_at` is the deadline on the monotonic clock."""

    event: RequestEvent
    timeout_s: float
    ends_at: float
    token: str = field(default_factory=lambda: str(uuid4()))

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self.event.content.request_id

    @property
    def stored_id(self) -> str:
        """The request's id in the state store."""
        return stored_request_id(self.request_id)

    def registration(self, reply_to: str) -> ReplyRegistration:
        """Build the registration for replies to the list `reply_to`."""
        content = self.event.content
        return ReplyRegistration(
            content.request_type, self.stored_id, content.responder, self.token, self.timeout_s, reply_to
        )

    def build_timeout_error(self, after_s: float | None = None) -> RequestTimedOut:
        """Build the error for a missing reply."""
        content = self.event.content
        return PendingRequestTimedOut(content.request_type, content.responder, round(after_s or self.timeout_s, 3))


class PendingRequestTimedOut(RequestTimedOut, CeleryTimeoutError):  # noqa: N818 - as all errors here
    """RequestTimedOut that is also Celery's TimeoutError, which callers of an AsyncResult expect."""


class _NoBackend:
    """The backend methods that Celery calls on a result; a reply is not stored in a result backend."""

    supports_native_join = False

    def add_pending_result(self, result: object, **_: object) -> None:
        """Do nothing, because a PendingResponse detects its reply itself."""

    def remove_pending_result(self, result: object) -> None:
        """Do nothing, because nothing was added."""


class PendingResponse(_Result, Generic[ValueT]):
    """The future reply to a request. Thread-safe; one thread waits at a time."""

    def __init__(
        self,
        bus: BusRuntime,
        pending: PendingRequest,
        returns: type[ValueT] | None = None,
        *,
        on_wait: Callable[[], bool] = lambda: False,
        slice_s: float = WAIT_SLICE_S,
    ) -> None:
        super().__init__(pending.request_id, backend=_NoBackend(), app=bus.app)  # type: ignore[arg-type]  # has all methods that Celery calls
        self._bus = bus
        self.request = pending.event
        self._pending = pending
        self._returns = returns
        self._on_wait = on_wait
        self._slice_s = slice_s
        self._waiting = threading.RLock()
        self._text: str | None = None
        self._response: Response[ValueT] | None = None
        self._is_store_away = False

    def get(
        self, timeout: float | None = None, *_: Any, disable_sync_subtasks: bool = True, **__: Any
    ) -> Response[ValueT]:
        """Wait for the reply until the request's deadline, or for `timeout` seconds if that is shorter.

        Celery's other options are accepted and have no effect.

        Raises:
            RequestTimedOut: No reply arrived; it is Celery's TimeoutError, too. After the deadline the request is
                cancelled.
            UsageError: (waiting_in_handler) called in a handler.
                (invalid_response) the reply's value is not of the type that the request `returns`.
            RuntimeError: Called in another Celery task, as for any AsyncResult.
        """
        check_argument("get.timeout", timeout, float | None)
        self._check_may_wait(disable_sync_subtasks)
        ends_at = self._pending.ends_at if timeout is None else min(self._pending.ends_at, time.monotonic() + timeout)
        with self._waiting:
            while self._response is None:
                left_s = ends_at - time.monotonic()
                if self._is_store_away and left_s <= 0:
                    # Asking it for anything else would exceed the deadline further.
                    raise self._pending.build_timeout_error(timeout)
                if should_stop_waiting(self._bus):
                    self._stop()
                elif left_s <= 0 or self._on_wait():
                    self._cancel(given_up=left_s > 0 or ends_at >= self._pending.ends_at, timeout_s=timeout)
                else:
                    self._fetch(max(_MIN_WAIT_S, min(left_s, self._slice_s)))
            return self._response

    wait = get

    def forget(self) -> None:
        """Cancel the request. A reply that arrives afterwards is late."""
        if self._response is None:
            with self._bus.state_store_access("cancelling a request"):
                self._bus.stores.requests.forget(self._pending.stored_id, self._pending.token)

    def ready(self) -> bool:
        """Return whether the reply has arrived."""
        return self.response is not None

    @property
    def response(self) -> Response[ValueT] | None:
        """The reply; None if it has not arrived."""
        with self._waiting:
            if self._response is None:
                self._fetch(0)
            return self._response

    def _get_task_meta(self) -> dict[str, Any]:
        response = self.response
        state = states.PENDING if response is None else states.SUCCESS if response.ok else states.FAILURE
        return {"status": state, "result": response, "traceback": None, "children": [], "task_id": self.id}

    def _check_may_wait(self, disable_sync_subtasks: bool) -> None:  # noqa: FBT001 - Celery's
        context = current_context()
        if context is not None:
            raise waiting_in_handler(self.request.content.request_type, context.subscription.name)
        # Celery's own flag is process-wide, so a worker in another thread would set it too.
        if disable_sync_subtasks and get_current_task() is not None:
            raise RuntimeError(
                "cannot wait for a reply within a Celery task, because it occupies the worker slot that the responder "
                "may need; wait outside the task, or call get(disable_sync_subtasks=False)"
            )

    def _fetch(self, wait_s: float) -> None:
        try:
            text = self._text or self._bus.stores.requests.take(self._pending.stored_id, wait_s)
        except (RedisConnectionError, RedisTimeoutError):
            # The reply stays in its list; the wait continues until the deadline.
            self._is_store_away = True
            time.sleep(min(wait_s, 0.2))
            return
        self._is_store_away = False
        if text is not None:
            # Kept, because reading it may raise, and a later call reads it again.
            self._text = text
            self._store_response(read_response(self._bus, self._pending, text, self._returns))

    def _store_response(self, response: Response[ValueT]) -> None:
        self._response = response
        self.on_ready(self)

    def _cancel(self, *, given_up: bool, timeout_s: float | None) -> None:
        """Cancel the request, unless the reply arrived just now. Raises RequestTimedOut."""
        if not given_up:
            raise self._pending.build_timeout_error(timeout_s)
        timeout_error = self._pending.build_timeout_error()
        try:
            if not self._bus.stores.requests.forget(self._pending.stored_id, self._pending.token):
                self._fetch(0)
        except RedisError as error:
            raise timeout_error from error
        if self._response is None:
            raise timeout_error

    def _stop(self) -> None:
        self._store_response(read_response(self._bus, self._pending, None, self._returns))
        try:
            self._bus.stores.requests.forget(self._pending.stored_id, self._pending.token)
        except RedisError:
            return  # the registration expires by itself


def read_response(
    bus: BusRuntime, pending: PendingRequest, text: str | None, returns: type[ValueT] | None = None
) -> Response[ValueT]:
    """Parse a reply from JSON. Without one, build the failure of a process or a system that is stopping.

    Raises UsageError (invalid_response) if the reply's value is not of the type `returns`.
    """
    request_type = pending.event.content.request_type
    if text is None:
        return responses.build_unanswered(pending.event, _stop_error(bus, request_type))
    document = claim_check.restore_content(bus, from_json(text))
    assert isinstance(document, dict)  # noqa: S101 - replies are events, which are JSON objects
    try:
        return responses.parse_response(bus.event_registry.read(document), returns)
    except ValidationError as error:
        raise invalid_reply(request_type, error) from error
