"""AG-UI: front ends of users. Needs the extra `agui`.

    POST /ag-ui                                     a run: RunAgentInput in, events of the run as server-sent events out
    GET  /ag-ui/threads/{thread_id}/runs/{run_id}   the events of a run again
    DELETE /ag-ui/threads/{thread_id}/runs/{run_id} cancel the run that a message began, and the runs that resumed it

A thread is a stream, a run is the flow of the user's last message. The message's event id is derived from thread and
run, so posting a run again publishes nothing and sends its events again. With the id of the last event that the client
has as `Last-Event-ID`, only the rest is sent, at this or any other server.

A tool call that needs approval ends the run with an interrupt. The client resumes with a new run, which decides:
`resolved` with {"approved": true} grants, anything else denies. The new run has the events after the interrupt.

Front-end tools and messages that are not text are refused: the agents cannot use them.

Source: AG-UI 1.0.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from functools import partial
from http import HTTPStatus
from typing import Final

from ag_ui.core import (
    AssistantMessage,
    BaseEvent,
    Message,
    ResumeEntry,
    RunAgentInput,
    RunErrorEvent,
    UserMessage,
)
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from petiole.events.catalog.input import TextMessageEvent
from petiole.events.catalog.orchestrator import ResponseReadyEvent
from petiole.events.errors import BrokerUnavailable, StateStoreUnavailable, StreamTimeout, UsageError
from petiole.events.ids import derived_event_id
from petiole.events.texts import error_text
from petiole.tasks.operations.flow_cancellation import cancel_flow
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.history import HISTORY_START
from petiole.workers.gateways.ag_ui_run import AgUiRun, RunCursor, messages_before_run
from petiole.workers.gateways.flows import FlowPosition, follow_flow
from petiole.workers.gateways.identities import MAX_STREAM_ID_LENGTH, check_stream
from petiole.workers.gateways.messages import caller_of, is_published, submit_message, user_of
from petiole.workers.gateways.problems import RequestRefused, answer_problems, invalid_body, read_json_body
from petiole.workers.gateways.server_sent_events import event_response
from petiole.workers.tools import approvals
from petiole.workers.tools.approvals import Approval

_OPERATOR: Final = "an AG-UI client"

log = logging.getLogger(__name__)


def routes(bus: BusRuntime) -> list[BaseRoute]:
    """Build the routes of all endpoints."""

    async def run(request: Request) -> Response:
        try:
            posted = RunAgentInput.model_validate_json(await read_json_body(request))
        except ValidationError as error:
            raise invalid_body(error) from error
        cursor = read_cursor(request)
        await run_in_threadpool(partial(check_stream, bus, request.scope, posted.thread_id, is_write=True))
        if posted.resume:
            user = caller_of(request.scope) or _OPERATOR
            approval = await run_in_threadpool(partial(decide_interrupts, bus, posted, posted.resume, by=user))
            flow_id = approval.request.correlation_id
            starts_after = await run_in_threadpool(partial(entry_of, bus, approval))
        else:
            flow_id, starts_after = await run_in_threadpool(partial(submit_run, bus, posted, request)), HISTORY_START
        state = posted.state if isinstance(posted.state, dict) else {}
        messages = messages_before_run(posted.messages)
        started = AgUiRun(posted.thread_id, posted.run_id, cursor, state, messages, starts_after)
        return event_response(request, stream_run(bus, started, flow_id))

    async def cancel(request: Request) -> Response:
        _, _, flow_id = await run_in_threadpool(partial(find_run, bus, request, is_write=True))
        by = caller_of(request.scope) or _OPERATOR
        await run_in_threadpool(partial(cancel_flow, flow_id, by=by, bus=bus))
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def read(request: Request) -> Response:
        cursor = read_cursor(request)
        thread_id, run_id, flow_id = await run_in_threadpool(find_run, bus, request)
        messages = await run_in_threadpool(partial(read_thread, bus, thread_id, flow_id))
        return event_response(request, stream_run(bus, AgUiRun(thread_id, run_id, cursor, {}, messages), flow_id))

    return [
        Route("/ag-ui", answer_problems(run), methods=["POST"]),
        Route("/ag-ui/threads/{thread_id:path}/runs/{run_id}", answer_problems(read), methods=["GET"]),
        Route("/ag-ui/threads/{thread_id:path}/runs/{run_id}", answer_problems(cancel), methods=["DELETE"]),
    ]


def flow_of(thread_id: str, run_id: str) -> str:
    """Return the id of the flow of a run."""
    return derived_event_id("ag-ui", thread_id, run_id)


def find_run(bus: BusRuntime, request: Request, *, is_write: bool = False) -> tuple[str, str, str]:
    """Return thread, run and flow that a path names. Raises RequestRefused if the caller began no such run."""
    thread_id, run_id = str(request.path_params["thread_id"]), str(request.path_params["run_id"])
    flow_id = flow_of(thread_id, run_id)
    check_stream(bus, request.scope, thread_id, is_write=is_write)
    if not is_published(bus, flow_id):
        reason = f"thread {thread_id!r} has no run {run_id!r} that a message began; post the run to /ag-ui"
        raise RequestRefused(HTTPStatus.NOT_FOUND, reason)
    return thread_id, run_id, flow_id


def read_cursor(request: Request) -> RunCursor:
    """Return what the client has, by its Last-Event-ID. Raises RequestRefused."""
    text = request.headers.get("last-event-id")
    cursor = RunCursor.parse(text) if text else RunCursor()
    if cursor is None:
        reason = "Last-Event-ID is not an id of this endpoint; leave the header out to get the whole run"
        raise RequestRefused(HTTPStatus.BAD_REQUEST, reason)
    return cursor


def submit_run(bus: BusRuntime, posted: RunAgentInput, request: Request) -> str:
    """Publish the user's last message, once, and return the id of its flow. Raises RequestRefused."""
    if not 0 < len(posted.thread_id) <= MAX_STREAM_ID_LENGTH:
        raise RequestRefused(HTTPStatus.BAD_REQUEST, "threadId: give 1 to 255 characters")
    if posted.tools:
        raise RequestRefused(HTTPStatus.BAD_REQUEST, "tools: the agents cannot call front-end tools; send none")
    message = next((message for message in reversed(posted.messages) if isinstance(message, UserMessage)), None)
    if message is None:
        raise RequestRefused(HTTPStatus.BAD_REQUEST, "messages: there is no message of the user; add one")
    return submit_message(
        bus,
        read_user_text(message),
        posted.thread_id,
        user_id=user_of(request.scope),
        message_id=flow_of(posted.thread_id, posted.run_id),
        source="ag-ui",
    )


def read_user_text(message: UserMessage) -> str:
    """Return the text of a message. Raises RequestRefused for parts that are not text."""
    if isinstance(message.content, str):
        return message.content
    other = next((part.type for part in message.content if part.type != "text"), None)
    if other is not None:
        raise RequestRefused(HTTPStatus.BAD_REQUEST, f"messages: the agents cannot read {other}; send text")
    return "\n".join(part.text for part in message.content if part.type == "text")


def decide_interrupts(bus: BusRuntime, posted: RunAgentInput, resume: list[ResumeEntry], *, by: str) -> Approval:
    """Decide the approvals that a run resumes, and return the last one. An earlier decision stays.

    Raises: UsageError (unknown_approval); RequestRefused.
    """
    decided = []
    for entry in resume:
        approval = approvals.get_approval(entry.interrupt_id, bus=bus)
        if approval.request.stream_id != posted.thread_id:
            raise RequestRefused(HTTPStatus.BAD_REQUEST, "resume: the interrupt is of another thread; give its own")
        payload = entry.payload if isinstance(entry.payload, dict) else {}
        is_granted = entry.status == "resolved" and payload.get("approved") is True
        act = approvals.grant if is_granted else approvals.deny
        try:
            act(approval.id, by=by, reason=str(payload.get("reason", "")), bus=bus)
        except UsageError as error:
            if error.code != "approval_decided":
                raise
        decided.append(approval)
    return max(decided, key=lambda approval: approval.request.timestamp)


def entry_of(bus: BusRuntime, approval: Approval) -> str:
    """Return the entry of the history that has the request for an approval."""
    flow = bus.stores.history.read_flow(approval.request.correlation_id)
    requested = approval.request.event_id
    return next((each.entry_id for each in flow if each.attributes["event_id"] == requested), HISTORY_START)


def read_thread(bus: BusRuntime, thread_id: str, flow_id: str) -> list[Message]:
    """Read the messages of a thread from the history, up to the one that begins a flow."""
    messages: list[Message] = []
    recorded = bus.stores.history.read_stream(thread_id)
    for event in bus.event_registry.read_known(each.document_or_stub for each in recorded):
        if isinstance(event, TextMessageEvent):
            messages.append(UserMessage(id=event.event_id, content=event.content.text))
        elif isinstance(event, ResponseReadyEvent):
            messages.append(AssistantMessage(id=event.event_id, content=event.content.text))
        if event.event_id == flow_id:
            break
    return messages


async def stream_run(bus: BusRuntime, run: AgUiRun, flow_id: str) -> AsyncIterator[dict[str, str]]:
    """Yield the events of a run until it ends."""
    for cursor, event in run.start():
        yield _server_sent_event(cursor, event)
    try:
        async for item in follow_flow(FlowPosition(bus, run.thread_id, flow_id)):
            for cursor, event in run.advance(item):
                yield _server_sent_event(cursor, event)
            if run.is_over:
                return
    except StreamTimeout as error:
        reason = f"{error_text(error)}; post the run again to continue"
        yield _server_sent_event(run.cursor, RunErrorEvent(message=reason, code="timeout"))
    except (BrokerUnavailable, StateStoreUnavailable) as error:
        # The client continues after its last event.
        log.warning("client.disconnected", extra={"stream_id": run.thread_id, "error": error_text(error)})


def _server_sent_event(cursor: RunCursor, event: BaseEvent) -> dict[str, str]:
    return {"id": str(cursor), "data": event.model_dump_json(by_alias=True)}
