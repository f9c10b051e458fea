"""Send requests and wait for their replies.

    request("get_user_data", responder="data_service", user_id="12345", timeout=5).get().value
    request(RequestEvent(...)).get(timeout=2)
    response = await request.aio("get_user_data", responder="data_service", user_id="12345")

A request is an event. It is delivered to the responder's subscription (`@agent.answers`, responder.py) and to every
other matching subscription. The pending request is registered before the event is published. The event expires at the
request's deadline, so a responder that receives it later does not run. A reply is an event, too; publishing it
delivers it to the requester in the same call (events/responses.py). A late, duplicate or foreign reply is counted, and
published as `response.unmatched`.

A handler cannot wait for a reply. In a handler `request(...)` is buffered with the handler's other events, and its
deadline is at most that of the current event. A handler of `response.*` continues the work; if there is no reply by the
deadline, a failure reply is published.

A process that ends cancels its pending requests. To cancel them before a custom shutdown, call
`request.stop_waiting()`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import UUID, uuid5

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from petiole.events import responses
from petiole.events.catalog.request import RequestEvent
from petiole.events.errors import (
    BrokerUnavailable,
    PublishOutcomeUnknown,
    RequestTimedOut,
    StateStoreUnavailable,
    duplicate_request,
    invalid_request,
    waiting_in_handler,
)
from petiole.events.errors.base import describe
from petiole.events.ids import EventId
from petiole.events.responses import REQUEST_EVENT_TYPE, Response
from petiole.events.validation import invalid_event
from petiole.tasks.handling.buffering import buffer
from petiole.tasks.handling.current import CurrentDelivery, current_context, current_publisher
from petiole.tasks.instrumentation import OperationFailed
from petiole.tasks.publishing.commit import Publication, commit
from petiole.tasks.publishing.threads import run_in_thread
from petiole.tasks.publishing.validation import validate
from petiole.tasks.requests.async_replies import current_reply_reader
from petiole.tasks.requests.pending import WAIT_SLICE_S, PendingRequest, PendingResponse, read_response, stop_waiting
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.settlement.retry_policy import MAX_WAIT
from petiole.tasks.stores.blobs import DATAREF

__all__ = ["PendingResponse", "Requester", "Response"]

DEFAULT_REQUESTER = "service"
"""The requester's name for requests from outside a handler that give none."""

ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class Requester:
    """The object behind `request`: sends requests of one bus.

    `on_wait` is called every `slice_s` seconds while a thread waits; if it returns True, the wait ends.
    """

    bus: BusRuntime
    on_wait: Callable[[], bool] = field(default=lambda: False)
    slice_s: float = WAIT_SLICE_S

    def __call__(
        self,
        request_or_type: str | RequestEvent,
        /,
        *,
        responder: str | None = None,
        timeout: float | timedelta | None = None,
        requester: str | None = None,
        request_id: str | None = None,
        returns: type[ValueT] | None = None,
        **parameters: object,
    ) -> PendingResponse[ValueT]:
        """Send a request and return at once; `.get()` of the result waits for the Response. See the module.

        Args:
            request_or_type: The type of the request, or a complete RequestEvent.
            responder: The agent that replies.
            timeout: Seconds until the deadline; by default PETIOLE_REQUEST_TIMEOUT_S.
            requester: The name of the requester; by default the current agent, or "service".
            request_id: Any text; by default a new UUID, or one derived from the current delivery.
            returns: The type of the reply's value, such as a pydantic model.
            **parameters: The parameters of the request.

        Raises:
            UsageError: (invalid_request, duplicate_request) the request is invalid, or its id was used before.
            InvalidEvent: An argument is not valid in an event; it names the field.
            NotConfigured: No broker or state store is configured.
            BrokerUnavailable: The broker does not answer (PublishOutcomeUnknown: during the call).
            StateStoreUnavailable: As BrokerUnavailable, if the state store is another server.
            SystemStopping: The system was shut down.
            QueueFull: The responder's queue is full.
        """
        context = current_context()
        event = _build_request(request_or_type, responder, requester, request_id, parameters, context=context)
        if returns is not None:
            _check_returns(request_or_type, returns)
        if context is not None:
            pending = _build_pending(event, context.bus, timeout, latest=context.event.expires_at)
            return PendingResponse(context.bus, _request_from_handler(context, pending), returns)
        self.bus.require_broker()
        pending = _build_pending(event, self.bus, timeout)
        response = PendingResponse(self.bus, pending, returns, on_wait=self.on_wait, slice_s=self.slice_s)
        _send_request(self.bus, pending, self.bus.stores.requests.reply_list(pending.stored_id))
        return response

    def stop_waiting(self) -> None:
        """Cancel all pending requests of this process within a second, with a failure. Later requests fail too."""
        stop_waiting(self.bus)

    async def aio(
        self,
        request_or_type: str | RequestEvent,
        /,
        *,
        responder: str | None = None,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109 - the request's own deadline
        requester: str | None = None,
        request_id: str | None = None,
        returns: type[ValueT] | None = None,
        **parameters: object,
    ) -> Response[ValueT]:
        """Send a request and wait for the Response in an event loop. All requests of a loop share one connection.

        Cancelling the call cancels the request. Arguments and errors are those of `__call__`, and:

        Raises:
            RequestTimedOut: No reply arrived before the deadline.
            UsageError: (waiting_in_handler) called in a handler.
        """
        context = current_context()
        if context is not None:
            raise waiting_in_handler(_type_of(request_or_type), context.subscription.name)
        event = _build_request(request_or_type, responder, requester, request_id, parameters, context=None)
        if returns is not None:
            _check_returns(request_or_type, returns)
        self.bus.require_broker()
        build = partial(_build_pending, event, self.bus, timeout)
        is_quick = self.bus.stores.server_clock.is_fresh()
        pending = build() if is_quick else await run_in_thread(build, f"requesting {_type_of(event)}")
        reader = await current_reply_reader(self.bus)
        text = await reader.send_and_wait(pending, lambda: _send_request(self.bus, pending, reader.key))

        def read() -> Response[ValueT]:
            return read_response(self.bus, pending, text, returns)

        # Only a reply by reference has to be fetched from the store.
        return await reader.call(read) if text and f'"{DATAREF}"' in text else read()


def _build_request(
    request_or_type: str | RequestEvent,
    responder: str | None,
    requester: str | None,
    request_id: str | None,
    parameters: dict[str, object],
    *,
    context: CurrentDelivery | None,
) -> RequestEvent:
    """Build the event of a request, unless it is given."""
    if isinstance(request_or_type, RequestEvent):
        if any(argument is not None for argument in (responder, requester, request_id)) or parameters:
            raise invalid_request(
                _type_of(request_or_type), "a RequestEvent has all fields of the request; give no other arguments"
            )
        return request_or_type
    if not isinstance(request_or_type, str):
        raise invalid_request(request_or_type, "it is no request; give a type as text, or a RequestEvent")
    if responder is None:
        raise invalid_request(request_or_type, "responder is missing; give the name of the agent that replies")
    default = context.subscription.agent if context else DEFAULT_REQUESTER
    content: dict[str, Any] = {
        "request_type": request_or_type,
        "requester": default if requester is None else requester,
        "responder": responder,
        "parameters": parameters,
    }
    if request_id is not None:
        content["request_id"] = request_id
    elif context is not None:
        # Derived from the delivery, so that a retry of the handler sends the same request.
        content["request_id"] = str(uuid5(UUID(context.delivery_id), f"request {context.outbox.count}"))
    if context is not None:
        return context.event.caused(RequestEvent, event_id=_event_id(context), content=content)
    try:
        return RequestEvent.model_validate({"content": content})
    except ValidationError as error:
        raise invalid_event(REQUEST_EVENT_TYPE, error, RequestEvent) from error


def _check_returns(request_or_type: object, returns: Any) -> None:
    """Check that a reply's value can be read as that type. Raises UsageError (invalid_request)."""
    reason = f"returns={describe(returns)} is no type; give a class, such as a pydantic model"
    if isinstance(returns, str | bytes | Mapping):
        raise invalid_request(_type_of(request_or_type), reason)
    try:
        TypeAdapter(returns)
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        raise invalid_request(_type_of(request_or_type), reason) from error


def _event_id(context: CurrentDelivery) -> EventId:
    return str(uuid5(UUID(context.delivery_id), f"request event {context.outbox.count}"))


def _type_of(request_or_type: object) -> str:
    if isinstance(request_or_type, RequestEvent):
        return request_or_type.content.request_type
    return request_or_type if isinstance(request_or_type, str) else describe(request_or_type)


def _build_pending(
    event: RequestEvent, bus: BusRuntime, timeout: float | timedelta | None, *, latest: datetime | None = None
) -> PendingRequest:
    """Set a request's deadline: the earliest of its timeout, its expiry and `latest`."""
    timeout_s = _timeout_s(event, bus, timeout)
    now = bus.now()
    ends = [now + timedelta(seconds=timeout_s), event.expires_at, latest]
    deadline = min(end for end in ends if end is not None)
    timeout_s = max(0.001, (deadline - now).total_seconds())
    return PendingRequest(event.copy_with_valid({"expires_at": deadline}), timeout_s, time.monotonic() + timeout_s)


def _timeout_s(event: RequestEvent, bus: BusRuntime, timeout: object) -> float:
    if timeout is None:
        return bus.settings.request_timeout_s
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    # After the deduplication window, a duplicate reply would not be detected.
    longest_s = min(bus.settings.deduplication_window_s, MAX_WAIT.total_seconds())
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= longest_s:
        limit = f"{longest_s:g} (PETIOLE_DEDUPLICATION_WINDOW_S)"
        reason = f"timeout={describe(timeout)} is invalid; give seconds above 0 and up to {limit}"
        raise invalid_request(_type_of(event), reason)
    return float(seconds)


def _send_request(bus: BusRuntime, pending: PendingRequest, reply_to: str) -> None:
    """Register and publish a request; if no subscription can answer it, publish a failure reply."""
    event = pending.event
    validated = validate(bus, event, current_publisher(bus))
    try:
        publication = commit(bus, [validated], registration=pending.registration(reply_to), is_refusable=True)[0]
        _check_is_new(bus, pending, publication)
        error = _find_unanswerable(bus, event, publication)
        if error is not None:
            commit(bus, [validate(bus, responses.build_error_reply(event, error))])
    except (BrokerUnavailable, StateStoreUnavailable):
        # Cancelling would wait for the same server again. The registration expires at the deadline.
        raise
    except BaseException:
        cancel_request(bus, pending)
        raise


def _check_is_new(bus: BusRuntime, pending: PendingRequest, publication: Publication) -> None:
    if not publication.was_repeated:
        return
    # If the connection was lost during the call, the call was repeated, and its first execution registered the request.
    try:
        is_own = bus.publishes_atomically and bus.stores.requests.is_owner(pending.stored_id, pending.token)
    except (RedisConnectionError, RedisTimeoutError) as error:
        raise PublishOutcomeUnknown(f"requesting {_type_of(pending.event)}") from error
    if is_own:
        return
    raise duplicate_request(_type_of(pending.event), pending.event.event_id)


def _register(bus: BusRuntime, pending: PendingRequest) -> None:
    """Register a request of a handler, without a reply list. A retry of the handler registers the same request."""
    content = pending.event.content
    try:
        is_new = bus.stores.requests.register(pending.registration(""))
    except RedisError as error:
        raise bus.outage(f"requesting {content.request_type}", error) from error
    if not is_new:
        raise duplicate_request(content.request_type, content.request_id)


def cancel_request(bus: BusRuntime, pending: PendingRequest) -> None:
    """Delete the registration of a request that could not be sent. If that fails too, it expires."""
    try:
        bus.stores.requests.forget(pending.stored_id, pending.token)
    except RedisError as error:
        failed = OperationFailed(operation="request.cancel_failed", exception=error, subject=pending.request_id)
        bus.instrumentation.emit(failed)


def _find_unanswerable(bus: BusRuntime, event: RequestEvent, publication: Publication) -> Exception | None:
    table = bus.cached_routing()
    heard_by = [subscription for name in publication.subscriptions if (subscription := table.get(name)) is not None]
    return responses.find_unanswerable_reason(event, heard_by, table.all())


def _request_from_handler(context: CurrentDelivery, pending: PendingRequest) -> PendingRequest:
    """Buffer a request until its handler succeeds, and a failure reply that is delayed until the deadline."""
    bus = context.bus
    event = context.prepare_event(pending.event)
    pending = PendingRequest(event, pending.timeout_s, pending.ends_at, token=event.event_id)
    buffer(context, event)
    if context.subscription.shadow:
        return pending
    _register(bus, pending)
    heard_by = [route.subscription for route in bus.routing().routes(event)]
    error: Exception | None = responses.find_unanswerable_reason(event, heard_by, bus.cached_routing().all())
    if error is not None:
        buffer(context, responses.build_error_reply(event, error))
    else:
        timed_out = RequestTimedOut(event.content.request_type, event.content.responder, round(pending.timeout_s, 3))
        # It has the id of the reply, so it is published only if there is no reply.
        buffer(context, responses.build_error_reply(event, timed_out), event.expires_at)
    return pending
