"""STATION 6, requests: one asks, one answers, and who asked gets that answer or is told why there is none.

    request("get_user_data", responder="data_service", user_id="12345", timeout=5).get().value
    request(RequestEvent(...)).get(timeout=2)
    response = await request.aio("get_user_data", responder="data_service", user_id="12345")

A request is an event, published to the responder's subscription for it (`@agent.answers`, answering.py) and to whoever
else listens. That somebody waits is written down before it is sent. It carries its deadline as its time of expiry: a
responder that comes to it later does not run. An answer is an event too; publishing it hands it to who waits, in the
same step (responses.py). What comes late, twice, or from somebody else is counted, and told as `response.unmatched`.

In a handler nobody waits: `request(...)` is held back with all else that the handler says, and its deadline is no later
than that of the event at hand. A handler of `response.*` goes on; where no answer comes, a failure is said then.

A process that ends lets those go who wait in it; whoever shuts it down otherwise calls `request.stop_waiting()`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid5

from redis.exceptions import RedisError

from petiole.events import responses
from petiole.events.catalog.request import RequestContent, RequestEvent
from petiole.events.errors import RequestTimedOut, duplicate_request, invalid_request, waiting_in_handler
from petiole.events.ids import EventId
from petiole.events.responses import Response
from petiole.tasks.handling.buffering import buffer
from petiole.tasks.handling.current import CurrentDelivery, current_context
from petiole.tasks.instrumentation import OperationFailed
from petiole.tasks.publishing.commit import Publication, commit
from petiole.tasks.publishing.validation import validate
from petiole.tasks.requests.async_replies import current_reply_reader
from petiole.tasks.requests.pending import WAIT_SLICE_S, PendingRequest, PendingResponse, read_response, stop_waiting
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.settlement.retry_policy import MAX_WAIT
from petiole.tasks.stores.blobs import DATAREF

__all__ = ["PendingResponse", "Requester", "Response"]

DEFAULT_REQUESTER = "service"
"""Who asks, where that is no agent and says nothing of itself."""

ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class Requester:
    """What `request` is. `on_wait` is called while somebody waits, every `slice_s`; it tells whether to give up."""

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
        """Ask, and return at once; `.get()` of what is returned waits for the Response. See the module.

        `timeout` (s) is PETIOLE_REQUEST_TIMEOUT_S where it is not given. `returns` is what the answer is read as, such
        as a pydantic model. Raises: UsageError (invalid_request, duplicate_request), InvalidEvent,
        BrokerUnavailable (PublishOutcomeUnknown), QueueFull; then nobody waits.
        """
        context = current_context()
        event = _build_request(request_or_type, responder, requester, request_id, parameters, context=context)
        if context is not None:
            asked = _build_pending(event, context.bus, timeout, latest=context.event.expires_at)
            return PendingResponse(context.bus, _request_from_handler(context, asked), returns)
        asked = _build_pending(event, self.bus, timeout)
        pending = PendingResponse(self.bus, asked, returns, on_wait=self.on_wait, slice_s=self.slice_s)
        _send_request(self.bus, asked, self.bus.stores.requests.reply_list(asked.request_id))
        return pending

    def stop_waiting(self) -> None:
        """Let everybody in this process who waits for an answer go, with a failure, in less than a second. For good."""
        stop_waiting(self.bus)

    async def aio(
        self,
        request_or_type: str | RequestEvent,
        /,
        *,
        responder: str | None = None,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109 - the request's, which travels with it
        requester: str | None = None,
        request_id: str | None = None,
        returns: type[ValueT] | None = None,
        **parameters: object,
    ) -> Response[ValueT]:
        """Ask and wait for the Response without a thread: all requests of a loop wait on one connection.

        Cancelled, it gives the request up. Raises as calling, RequestTimedOut, UsageError (waiting_in_handler).
        """
        context = current_context()
        if context is not None:
            raise waiting_in_handler(_type_of(request_or_type), context.subscription.name)
        event = _build_request(request_or_type, responder, requester, request_id, parameters, context=None)
        asked = _build_pending(event, self.bus, timeout)
        inbox = await current_reply_reader(self.bus)
        text = await inbox.send_and_wait(asked, lambda: _send_request(self.bus, asked, inbox.key))

        def read() -> Response[ValueT]:
            return read_response(self.bus, asked, text, returns)

        # Only what refers to a content elsewhere has to be fetched.
        return await inbox.call(read) if text and f'"{DATAREF}"' in text else read()


def _build_request(
    request_or_type: str | RequestEvent,
    responder: str | None,
    requester: str | None,
    request_id: str | None,
    parameters: dict[str, object],
    *,
    context: CurrentDelivery | None,
) -> RequestEvent:
    """Make the event of a request, unless it is one."""
    if isinstance(request_or_type, RequestEvent):
        if responder or requester or request_id or parameters:
            raise invalid_request(
                _type_of(request_or_type), "an event says itself who asks whom for what; give it alone"
            )
        return request_or_type
    if responder is None:
        raise invalid_request(request_or_type, "responder is missing; name the agent that is to answer")
    content: dict[str, Any] = {
        "request_type": request_or_type,
        "requester": requester or (context.subscription.agent if context else DEFAULT_REQUESTER),
        "responder": responder,
        "parameters": parameters,
    }
    if request_id is not None:
        content["request_id"] = request_id
    elif context is not None:
        # The same in each run of this delivery, which asks once.
        content["request_id"] = str(uuid5(UUID(context.delivery_id), f"request {context.outbox.count}"))
    if context is not None:
        at_hand = context.event
        return at_hand.caused(RequestEvent, event_id=_event_id(context), content=RequestContent.model_validate(content))
    return RequestEvent.model_validate({"content": content})


def _event_id(context: CurrentDelivery) -> EventId:
    return str(uuid5(UUID(context.delivery_id), f"request event {context.outbox.count}"))


def _type_of(request_or_type: str | RequestEvent) -> str:
    return request_or_type.content.request_type if isinstance(request_or_type, RequestEvent) else request_or_type


def _build_pending(
    event: RequestEvent, bus: BusRuntime, timeout: float | timedelta | None, *, latest: datetime | None = None
) -> PendingRequest:
    """Give a request its deadline, the earliest of those that are known."""
    timeout_s = _timeout_s(event, bus, timeout)
    now = datetime.now(UTC)
    ends = [now + timedelta(seconds=timeout_s), event.expires_at, latest]
    deadline = min(each for each in ends if each is not None)
    timeout_s = max(0.001, (deadline - now).total_seconds())
    return PendingRequest(event.model_copy(update={"expires_at": deadline}), timeout_s, time.monotonic() + timeout_s)


def _timeout_s(event: RequestEvent, bus: BusRuntime, timeout: object) -> float:
    if timeout is None:
        return bus.settings.request_timeout_s
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    # Beyond the window, a second answer would not be known for one.
    longest_s = min(bus.settings.deduplication_window_s, MAX_WAIT.total_seconds())
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= longest_s:
        limit = f"{longest_s:g} (PETIOLE_DEDUPLICATION_WINDOW_S)"
        reason = f"timeout={timeout!r} cannot be; give seconds above 0 and up to {limit}"
        raise invalid_request(_type_of(event), reason)
    return float(seconds)


def _send_request(bus: BusRuntime, pending: PendingRequest, reply_to: str) -> None:
    """Note that somebody waits, then publish; where nobody can answer, answer that."""
    event = pending.event
    admitted = validate(bus, event)
    try:
        publication = commit(bus, [admitted], registration=pending.registration(reply_to), is_refusable=True)[0]
        _check_is_new(bus, pending, publication)
        error = _find_unanswerable(bus, event, publication)
        if error is not None:
            commit(bus, [validate(bus, responses.build_error_reply(event, error))])
    except BaseException:
        cancel_request(bus, pending)
        raise


def _check_is_new(bus: BusRuntime, pending: PendingRequest, publication: Publication) -> None:
    if not publication.was_repeated:
        return
    # Where the connection was lost in the step, it was repeated, and the first one was ours.
    if bus.publishes_atomically and bus.stores.requests.is_owner(pending.request_id, pending.token):
        return
    raise duplicate_request(_type_of(pending.event), pending.event.event_id)


def _register(bus: BusRuntime, pending: PendingRequest) -> None:
    """Note that an agent waits, which no process does. Each run of its handler notes the same."""
    said = pending.event.content
    try:
        is_new = bus.stores.requests.register(pending.registration(""))
    except RedisError as error:
        raise bus.outage(f"requesting {said.request_type}") from error
    if not is_new:
        raise duplicate_request(said.request_type, said.request_id)


def cancel_request(bus: BusRuntime, pending: PendingRequest) -> None:
    """Give up a request that could not be made. Where that cannot be noted either, it expires."""
    try:
        bus.stores.requests.forget(pending.request_id, pending.token)
    except RedisError as error:
        failed = OperationFailed(operation="request.cancel_failed", exception=error, subject=pending.request_id)
        bus.instrumentation.emit(failed)


def _find_unanswerable(bus: BusRuntime, event: RequestEvent, publication: Publication) -> Exception | None:
    table = bus.cached_routing()
    heard_by = [each for each in map(table.get, publication.subscriptions) if each is not None]
    return responses.find_unanswerable_reason(event, heard_by, table.all())


def _request_from_handler(context: CurrentDelivery, pending: PendingRequest) -> PendingRequest:
    """Hold a request back until its handler has succeeded, and a failure that is said at the deadline."""
    bus = context.bus
    said = context.prepare_event(pending.event)
    pending = PendingRequest(said, pending.timeout_s, pending.ends_at, token=said.event_id)
    buffer(context, said)
    if context.subscription.shadow:
        return pending
    _register(bus, pending)
    routes = bus.routing().routes(said)
    error: Exception | None = responses.find_unanswerable_reason(
        said, [each.subscription for each in routes], bus.cached_routing().all()
    )
    if error is not None:
        buffer(context, responses.build_error_reply(said, error))
    else:
        overdue = RequestTimedOut(said.content.request_type, said.content.responder, round(pending.timeout_s, 3))
        # Under the id of the answer: published only where there is none.
        buffer(context, responses.build_error_reply(said, overdue), said.expires_at)
    return pending
