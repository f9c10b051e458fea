"""STATION 6, requests: one asks, one answers, and who asked gets that answer or is told why there is none.

    request("get_user_data", responder="data_service", user_id="12345", timeout=5).get().value
    request(RequestEvent(...)).get(timeout=2)
    response = await request.aio("get_user_data", responder="data_service", user_id="12345")

A request is an event, published to the responder's subscription for it (`@agent.answers`, answering.py) and to whoever
else listens. That somebody waits is written down before it is sent. It carries its deadline as its time of expiry: a
responder that comes to it later does not run. An answer is an event too; publishing it hands it to who waits, in the
same step (responses.py). What comes late, twice, or from somebody else is counted, and told as `response.late`.

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
from petiole.tasks.handling.buffering import hold
from petiole.tasks.handling.current import CurrentDelivery, current_context
from petiole.tasks.instrumentation import OperationFailed
from petiole.tasks.publishing.commit import Publication, dispatch
from petiole.tasks.publishing.validation import checked
from petiole.tasks.requests.async_replies import inbox_of_this_loop
from petiole.tasks.requests.pending import SLICE_S, Asked, PendingResponse, read_response, stop_waiting
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.settlement.retry_policy import LONGEST_WAIT
from petiole.tasks.stores.blobs import DATAREF

__all__ = ["PendingResponse", "Requester", "Response"]

SERVICE = "service"
"""Who asks, where that is no agent and says nothing of itself."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Requester:
    """What `request` is. `on_wait` is called while somebody waits, every `slice_s`; it tells whether to give up."""

    bus: BusRuntime
    on_wait: Callable[[], bool] = field(default=lambda: False)
    slice_s: float = SLICE_S

    def __call__(
        self,
        what: str | RequestEvent,
        /,
        *,
        responder: str | None = None,
        timeout: float | timedelta | None = None,
        requester: str | None = None,
        request_id: str | None = None,
        returns: type[Answer] | None = None,
        **parameters: object,
    ) -> PendingResponse[Answer]:
        """Ask, and return at once; `.get()` of what is returned waits for the Response. See the module.

        `timeout` (s) is PETIOLE_REQUEST_TIMEOUT_S where it is not given. `returns` is what the answer is read as, such
        as a pydantic model. Raises: UsageError (invalid_request, duplicate_request), InvalidEvent,
        BrokerUnavailable (PublishOutcomeUnknown), QueueFull; then nobody waits.
        """
        context = current_context()
        event = _event(what, responder, requester, request_id, parameters, context=context)
        if context is not None:
            asked = _asked(event, context.bus, timeout, until=context.event.expires_at)
            return PendingResponse(context.bus, _ask_for_handler(context, asked), returns)
        asked = _asked(event, self.bus, timeout)
        pending = PendingResponse(self.bus, asked, returns, on_wait=self.on_wait, slice_s=self.slice_s)
        _ask(self.bus, asked, self.bus.stores.requests.reply_list(asked.request_id))
        return pending

    def stop_waiting(self) -> None:
        """Let everybody in this process who waits for an answer go, with a failure, in less than a second. For good."""
        stop_waiting(self.bus)

    async def aio(
        self,
        what: str | RequestEvent,
        /,
        *,
        responder: str | None = None,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109 - the request's, which travels with it
        requester: str | None = None,
        request_id: str | None = None,
        returns: type[Answer] | None = None,
        **parameters: object,
    ) -> Response[Answer]:
        """Ask and wait for the Response without a thread: all requests of a loop wait on one connection.

        Cancelled, it gives the request up. Raises as calling, RequestTimedOut, UsageError (waiting_in_handler).
        """
        context = current_context()
        if context is not None:
            raise waiting_in_handler(_type_of(what), context.subscription.name)
        event = _event(what, responder, requester, request_id, parameters, context=None)
        asked = _asked(event, self.bus, timeout)
        inbox = await inbox_of_this_loop(self.bus)
        text = await inbox.answer(asked, lambda: _ask(self.bus, asked, inbox.key))

        def read() -> Response[Answer]:
            return read_response(self.bus, asked, text, returns)

        # Only what refers to a content elsewhere has to be fetched.
        return await inbox.call(read) if text and f'"{DATAREF}"' in text else read()


def _event(
    what: str | RequestEvent,
    responder: str | None,
    requester: str | None,
    request_id: str | None,
    parameters: dict[str, object],
    *,
    context: CurrentDelivery | None,
) -> RequestEvent:
    """Make the event of a request, unless it is one."""
    if isinstance(what, RequestEvent):
        if responder or requester or request_id or parameters:
            raise invalid_request(_type_of(what), "an event says itself who asks whom for what; give it alone")
        return what
    if responder is None:
        raise invalid_request(what, "responder is missing; name the agent that is to answer")
    content: dict[str, Any] = {
        "request_type": what,
        "requester": requester or (context.subscription.agent if context else SERVICE),
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


def _type_of(what: str | RequestEvent) -> str:
    return what.content.request_type if isinstance(what, RequestEvent) else what


def _asked(
    event: RequestEvent, bus: BusRuntime, timeout: float | timedelta | None, *, until: datetime | None = None
) -> Asked:
    """Give a request its deadline, the earliest of those that are known."""
    timeout_s = _timeout_s(event, bus, timeout)
    now = datetime.now(UTC)
    ends = [now + timedelta(seconds=timeout_s), event.expires_at, until]
    deadline = min(each for each in ends if each is not None)
    timeout_s = max(0.001, (deadline - now).total_seconds())
    return Asked(event.model_copy(update={"expires_at": deadline}), timeout_s, time.monotonic() + timeout_s)


def _timeout_s(event: RequestEvent, bus: BusRuntime, timeout: object) -> float:
    if timeout is None:
        return bus.settings.request_timeout_s
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    # Beyond the window, a second answer would not be known for one.
    longest_s = min(bus.settings.deduplication_window_s, LONGEST_WAIT.total_seconds())
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= longest_s:
        limit = f"{longest_s:g} (PETIOLE_DEDUPLICATION_WINDOW_S)"
        reason = f"timeout={timeout!r} cannot be; give seconds above 0 and up to {limit}"
        raise invalid_request(_type_of(event), reason)
    return float(seconds)


def _ask(bus: BusRuntime, asked: Asked, reply_to: str) -> None:
    """Note that somebody waits, then publish; where nobody can answer, answer that."""
    event = asked.event
    admitted = checked(bus, event)
    try:
        publication = dispatch(bus, [admitted], asking=asked.asking(reply_to), is_refusable=True)[0]
        _check_is_new(bus, asked, publication)
        error = _unanswerable(bus, event, publication)
        if error is not None:
            dispatch(bus, [checked(bus, responses.failure_of(event, error))])
    except BaseException:
        forget(bus, asked)
        raise


def _check_is_new(bus: BusRuntime, asked: Asked, publication: Publication) -> None:
    if not publication.was_repeated:
        return
    # Where the connection was lost in the step, it was repeated, and the first one was ours.
    if bus.publishes_in_one_step and bus.stores.requests.is_mine(asked.request_id, asked.token):
        return
    raise duplicate_request(_type_of(asked.event), asked.event.event_id)


def _register(bus: BusRuntime, asked: Asked) -> None:
    """Note that an agent waits, which no process does. Each run of its handler notes the same."""
    said = asked.event.content
    try:
        is_new = bus.stores.requests.register(asked.asking(""))
    except RedisError as error:
        raise bus.outage(f"requesting {said.request_type}") from error
    if not is_new:
        raise duplicate_request(said.request_type, said.request_id)


def forget(bus: BusRuntime, asked: Asked) -> None:
    """Give up a request that could not be made. Where that cannot be noted either, it expires."""
    try:
        bus.stores.requests.forget(asked.request_id, asked.token)
    except RedisError as error:
        failed = OperationFailed(operation="request.withdraw_failed", exception=error, subject=asked.request_id)
        bus.instrumentation.emit(failed)


def _unanswerable(bus: BusRuntime, event: RequestEvent, publication: Publication) -> Exception | None:
    table = bus.known_routing()
    heard_by = [each for each in map(table.get, publication.subscriptions) if each is not None]
    return responses.unanswerable(event, heard_by, table.all())


def _ask_for_handler(context: CurrentDelivery, asked: Asked) -> Asked:
    """Hold a request back until its handler has succeeded, and a failure that is said at the deadline."""
    bus = context.bus
    said = context.emitted(asked.event)
    asked = Asked(said, asked.timeout_s, asked.ends_at, token=said.event_id)
    hold(context, said)
    if context.subscription.shadow:
        return asked
    _register(bus, asked)
    routes = bus.routing().routes(said)
    error: Exception | None = responses.unanswerable(
        said, [each.subscription for each in routes], bus.known_routing().all()
    )
    if error is not None:
        hold(context, responses.failure_of(said, error))
    else:
        overdue = RequestTimedOut(said.content.request_type, said.content.responder, round(asked.timeout_s, 3))
        # Under the id of the answer: published only where there is none.
        hold(context, responses.failure_of(said, overdue), said.expires_at)
    return asked
