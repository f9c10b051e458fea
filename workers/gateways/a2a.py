"""A2A 1.0: agents of others. Needs the extra `a2a`.

    GET  /.well-known/agent-card.json     the agent card
    POST /a2a                             JSON-RPC: SendMessage, SendStreamingMessage, GetTask, ListTasks,
                                          SubscribeToTask

A context is a stream, and a task is the flow of one message. The task's id is derived from the context and the
message's id, so a message that is sent again is the same task. Tasks are read from the history: they do not depend on
the server that got the message, and `SubscribeToTask` gives a client that lost its connection the task with its text so
far, and then the rest.

Not offered, and not promised by the card: push notifications.

Source: A2A 1.0.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from http import HTTPStatus
from typing import Final, NoReturn

from a2a.helpers import get_data_parts, new_text_part
from a2a.server.context import ServerCallContext
from a2a.server.request_handlers.request_handler import RequestHandler, validate_request_params
from a2a.server.request_handlers.response_helpers import agent_card_to_dict
from a2a.server.routes import DefaultServerCallContextBuilder
from a2a.server.routes.jsonrpc_dispatcher import JsonRpcDispatcher
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    AgentSkill,
    CancelTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    ListTasksResponse,
    Message,
    Role,
    SendMessageRequest,
    SubscribeToTaskRequest,
    Task,
)
from a2a.utils.errors import (
    ContentTypeNotSupportedError,
    ExtendedAgentCardNotConfiguredError,
    InternalError,
    InvalidParamsError,
    PushNotificationNotSupportedError,
    TaskNotCancelableError,
    TaskNotFoundError,
    UnsupportedOperationError,
)
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from petiole.events.catalog.input import TextMessageEvent
from petiole.events.errors import PetioleError, UsageError
from petiole.events.texts import error_text
from petiole.tasks.operations.flow_cancellation import cancel_flow
from petiole.tasks.runtime import BusRuntime
from petiole.workers.gateways.a2a_tasks import FlowTask, TaskUpdate
from petiole.workers.gateways.flows import FlowPosition, follow_flow
from petiole.workers.gateways.identities import IDENTITY, check_stream, may_use_stream
from petiole.workers.gateways.messages import caller_of, derive_message_id, submit_message, user_of
from petiole.workers.gateways.problems import RequestRefused
from petiole.workers.tools import approvals

_PAGE_SIZE: Final = 50
_OPERATOR: Final = "an A2A client"
_SCOPE: Final = "scope"


def routes(bus: BusRuntime) -> list[BaseRoute]:
    """Build the routes of the card and of JSON-RPC."""

    async def card(request: Request) -> JSONResponse:
        base = str(request.base_url).rstrip("/")
        return JSONResponse(agent_card_to_dict(build_card(f"{base}/a2a")), HTTPStatus.OK)

    async def call(request: Request) -> Response:
        dispatcher = JsonRpcDispatcher(FlowTasks(bus, request.scope), context_builder=_CallContext())
        answer: Response = await dispatcher.handle_requests(request)
        return answer

    return [
        Route("/.well-known/agent-card.json", card, methods=["GET"]),
        Route("/a2a", call, methods=["POST"]),
    ]


def build_card(url: str) -> AgentCard:
    """Build the card of the agents at a URL. It promises what this gateway has, and no more."""
    skill = AgentSkill(
        id="converse",
        name="Converse",
        description="Answers messages, and calls the tools of its agents.",
        tags=["conversation", "tools"],
    )
    return AgentCard(
        name="Petiole",
        description="Agents on an event backbone.",
        version="1.0",
        supported_interfaces=[AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version="1.0")],
        capabilities=AgentCapabilities(streaming=True, push_notifications=False, extended_agent_card=False),
        default_input_modes=["text/plain", "application/json"],
        default_output_modes=["text/plain", "application/json"],
        skills=[skill],
    )


class FlowTasks(RequestHandler):
    """Handles a request of a client: tasks are flows, and the client sees those in streams of its user."""

    def __init__(self, bus: BusRuntime, scope: Scope) -> None:
        self._bus = bus
        self._scope = scope

    @validate_request_params
    async def on_message_send(self, params: SendMessageRequest, context: ServerCallContext) -> Task:
        """Send a message, and wait until its task ends or needs input, unless the client does not want to wait."""
        task = await self._send(params, context)
        if not params.configuration.return_immediately:
            async with aclosing(self._follow(task)) as updates:
                async for _ in updates:
                    pass
        return task.build_task(_history_length(params.configuration))

    @validate_request_params
    async def on_message_send_stream(
        self, params: SendMessageRequest, context: ServerCallContext
    ) -> AsyncGenerator[Task | TaskUpdate]:
        """Send a message; yield its task, and then the changes."""
        task = await self._send(params, context)
        yield task.build_task(_history_length(params.configuration))
        async with aclosing(self._follow(task)) as updates:
            async for update in updates:
                yield update

    @validate_request_params
    async def on_subscribe_to_task(
        self, params: SubscribeToTaskRequest, context: ServerCallContext
    ) -> AsyncGenerator[Task | TaskUpdate]:
        """Yield a task as it is, and then the changes."""
        del context
        task = await asyncio.to_thread(self._find, params.id)
        if task.is_final:
            raise UnsupportedOperationError(message=f"task {params.id!r} has ended; read it with GetTask")
        yield task.build_task()
        async with aclosing(self._follow(task)) as updates:
            async for update in updates:
                yield update

    @validate_request_params
    async def on_get_task(self, params: GetTaskRequest, context: ServerCallContext) -> Task:
        """Return a task."""
        del context
        return (await asyncio.to_thread(self._find, params.id)).build_task(_history_length(params))

    @validate_request_params
    async def on_list_tasks(self, params: ListTasksRequest, context: ServerCallContext) -> ListTasksResponse:
        """Return the tasks of a context, the newest first."""
        del context
        return await asyncio.to_thread(self._list, params)

    @validate_request_params
    async def on_cancel_task(self, params: CancelTaskRequest, context: ServerCallContext) -> Task:
        """Cancel a task: all that runs or waits for it ends."""
        del context
        task = await asyncio.to_thread(self._find, params.id)
        if task.is_final:
            raise TaskNotCancelableError(message=f"task {params.id!r} has ended")
        await asyncio.to_thread(partial(cancel_flow, params.id, by="a2a", bus=self._bus))
        return (await asyncio.to_thread(self._find, params.id)).build_task()

    async def on_create_task_push_notification_config(self, *_: object) -> NoReturn:
        """Refuse: the card promises no push notifications."""
        raise PushNotificationNotSupportedError

    async def on_get_task_push_notification_config(self, *_: object) -> NoReturn:
        """Refuse, as above."""
        raise PushNotificationNotSupportedError

    async def on_list_task_push_notification_configs(self, *_: object) -> NoReturn:
        """Refuse, as above."""
        raise PushNotificationNotSupportedError

    async def on_delete_task_push_notification_config(self, *_: object) -> NoReturn:
        """Refuse, as above."""
        raise PushNotificationNotSupportedError

    async def on_get_extended_agent_card(self, *_: object) -> NoReturn:
        """Refuse: there is one card."""
        raise ExtendedAgentCardNotConfiguredError

    async def _send(self, params: SendMessageRequest, context: ServerCallContext) -> FlowTask:
        scope: Scope = context.state.get(_SCOPE, {})
        return await asyncio.to_thread(partial(self._submit, params.message, scope))

    def _submit(self, message: Message, scope: Scope) -> FlowTask:
        """Publish a message as a new task, or decide the approval that its task waits for."""
        with _as_protocol_errors():
            if message.task_id:
                return self._decide(message, caller_of(scope))
            # Derived, so that a message without a context is one task too, however often it is sent.
            stream_id = message.context_id or derive_message_id("a2a context", message.message_id)
            flow_id = derive_message_id("a2a", stream_id, message.message_id)
            check_stream(self._bus, self._scope, stream_id, is_write=True)
            submit_message(
                self._bus, _read_text(message), stream_id, user_id=user_of(scope), message_id=flow_id, source="a2a"
            )
            return self._find(flow_id)

    def _decide(self, message: Message, user: str | None) -> FlowTask:
        task = self._find(message.task_id)
        if task.approval is None:
            raise UnsupportedOperationError(
                message=f"task {message.task_id!r} waits for no decision; send the message without a task"
            )
        data = next((part for part in get_data_parts(message.parts) if isinstance(part, dict)), {})
        if not isinstance(data.get("approved"), bool):
            raise InvalidParamsError(message='the decision is missing; send the data {"approved": true}, or false')
        act = approvals.grant if data["approved"] else approvals.deny
        try:
            act(task.approval.approval_id, by=user or _OPERATOR, reason=str(data.get("reason", "")), bus=self._bus)
        except UsageError as error:
            if error.code != "approval_decided":
                raise
        return self._find(message.task_id)

    def _find(self, task_id: str) -> FlowTask:
        """Read a task from the history. Raises TaskNotFoundError, also for a task of another user."""
        with self._bus.state_store_access(f"reading the task {task_id!r}"):
            flow = self._bus.event_registry.read_known(
                each.document_or_stub for each in self._bus.stores.history.read_flow(task_id)
            )
            message = next((event for event in flow if event.event_id == task_id), None)
            if not isinstance(message, TextMessageEvent) or not may_use_stream(
                self._bus, self._scope.get(IDENTITY), message.stream_id
            ):
                raise TaskNotFoundError(message=f"no task {task_id!r} is kept; its history may have been removed")
            task = FlowTask(FlowPosition(self._bus, message.stream_id, task_id), _build_message(message))
            task.read()
        return task

    def _list(self, params: ListTasksRequest) -> ListTasksResponse:
        if not params.context_id:
            raise UnsupportedOperationError(message="contextId: tasks are listed by context; give one")
        with _as_protocol_errors(), self._bus.state_store_access("listing tasks"):
            check_stream(self._bus, self._scope, params.context_id)
            recorded = self._bus.stores.history.read_stream(params.context_id)
        ids = [str(each.attributes["event_id"]) for each in recorded if each.topic == "input.message.received"]
        tasks = [task for task in map(self._find, reversed(ids)) if params.status in {0, task.state}]
        start = int(params.page_token) if params.page_token.isdecimal() else 0
        size = params.page_size or _PAGE_SIZE
        following = str(start + size) if start + size < len(tasks) else ""
        return ListTasksResponse(
            tasks=[task.build_task(_history_length(params)) for task in tasks[start : start + size]],
            next_page_token=following,
            page_size=size,
            total_size=len(tasks),
        )

    async def _follow(self, task: FlowTask) -> AsyncGenerator[TaskUpdate]:
        """Yield the changes of a task until it ends or needs input."""
        if task.is_waiting:
            return
        with _as_protocol_errors():
            async with aclosing(follow_flow(task.position)) as items:
                async for item in items:
                    for update in task.advance(item):
                        yield update
                    if task.is_waiting:
                        return


class _CallContext(DefaultServerCallContextBuilder):
    """Hands on the ASGI scope, where the identity of the caller is."""

    def build(self, request: Request) -> ServerCallContext:
        context = super().build(request)
        context.state[_SCOPE] = request.scope
        return context


def _build_message(event: TextMessageEvent) -> Message:
    return Message(
        message_id=event.event_id,
        context_id=event.stream_id,
        task_id=event.event_id,
        role=Role.ROLE_USER,
        parts=[new_text_part(event.content.text)],
    )


def _read_text(message: Message) -> str:
    """Return the text of a message. Raises ContentTypeNotSupportedError for parts that are not text."""
    if any(part.WhichOneof("content") != "text" for part in message.parts):
        raise ContentTypeNotSupportedError(message="parts: the agents read text; send text parts only")
    return "\n".join(part.text for part in message.parts)


def _history_length(request: object) -> int | None:
    has_length = request.HasField("history_length")  # type: ignore[attr-defined]  # messages of protobuf have it
    return request.history_length if has_length else None  # type: ignore[attr-defined]  # as above


@contextmanager
def _as_protocol_errors() -> Iterator[None]:
    """Replace our errors by those of the protocol."""
    try:
        yield
    except (UsageError, RequestRefused) as error:
        raise InvalidParamsError(message=error_text(error)) from error
    except PetioleError as error:
        raise InternalError(message=f"{error_text(error)}; send the request again later") from error
