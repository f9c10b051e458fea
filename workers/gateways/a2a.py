"""A2A 1.0: agents of others. Needs the extra `a2a`.

    GET  /.well-known/agent-card.json     the agent card
    POST /a2a                             JSON-RPC: SendMessage, SendStreamingMessage, GetTask, ListTasks,
                                          SubscribeToTask, CancelTask, and …TaskPushNotificationConfig

A context is a stream, and a task is the flow of one message. The task's id is derived from the context and the
message's id, so a message that is sent again is the same task. Tasks are read from the history: they do not depend on
the server that got the message, and `SubscribeToTask` gives a client that lost its connection the task with its text so
far, and then the rest.

Push notifications are posted by the agent of `a2a_push.py`; the card promises them if it is subscribed.

Source: A2A 1.0.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator
from contextlib import aclosing, contextmanager, suppress
from functools import partial, wraps
from typing import Any, Final, NoReturn

from a2a.helpers import get_data_parts
from a2a.server.context import ServerCallContext
from a2a.server.request_handlers.request_handler import RequestHandler, validate_request_params
from a2a.server.request_handlers.response_helpers import build_error_response
from a2a.server.routes import DefaultServerCallContextBuilder
from a2a.server.routes.jsonrpc_dispatcher import JsonRpcDispatcher
from a2a.types import (
    CancelTaskRequest,
    DeleteTaskPushNotificationConfigRequest,
    GetTaskPushNotificationConfigRequest,
    GetTaskRequest,
    ListTaskPushNotificationConfigsRequest,
    ListTaskPushNotificationConfigsResponse,
    ListTasksRequest,
    ListTasksResponse,
    Message,
    SendMessageRequest,
    SubscribeToTaskRequest,
    Task,
    TaskPushNotificationConfig,
    TaskState,
)
from a2a.utils.errors import (
    ContentTypeNotSupportedError,
    ExtendedAgentCardNotConfiguredError,
    InternalError,
    InvalidParamsError,
    TaskNotCancelableError,
    TaskNotFoundError,
    UnsupportedOperationError,
)
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from petiole.events.errors import PetioleError, UsageError
from petiole.events.ids import derived_event_id
from petiole.events.texts import error_text
from petiole.tasks.operations.flow_cancellation import cancel_flow
from petiole.tasks.runtime import BusRuntime
from petiole.workers.gateways.a2a_card import build_card_route
from petiole.workers.gateways.a2a_push_configs import (
    check_config,
    find_config,
    list_configs,
    remove_config,
    save_config,
)
from petiole.workers.gateways.a2a_tasks import (
    FINAL_STATES,
    MESSAGE_ID,
    WAITING_STATES,
    FlowTask,
    TaskUpdate,
    read_task,
)
from petiole.workers.gateways.flows import follow_flow
from petiole.workers.gateways.identities import IDENTITY, check_stream, may_use_stream
from petiole.workers.gateways.messages import caller_of, submit_message, user_of
from petiole.workers.gateways.problems import RequestRefused, read_json_body
from petiole.workers.tools import approvals

_DECISIONS: Final = {"yes": True, "approve": True, "approved": True, "no": False, "deny": False, "denied": False}
_PAGE_SIZE: Final = 50
_MAX_PAGE_SIZE: Final = 100
_OPERATOR: Final = "an A2A client"
_SCOPE: Final = "scope"


def routes(bus: BusRuntime) -> list[BaseRoute]:
    """Build the routes of the card and of JSON-RPC."""

    async def call(request: Request) -> Response:
        try:
            await read_json_body(request)
        except RequestRefused as error:
            return JSONResponse(build_error_response(None, ContentTypeNotSupportedError(message=str(error))))
        dispatcher = JsonRpcDispatcher(FlowTasks(bus, request.scope), context_builder=_CallContext())
        answer: Response = await dispatcher.handle_requests(request)
        return answer

    return [
        build_card_route(bus),
        # Some HTTP clients add a slash to the URL of the card.
        *(Route(path, call, methods=["POST"]) for path in ("/a2a", "/a2a/")),
    ]


def _about_known_task(method: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse a request about a task that is not kept, or is another user's."""

    @validate_request_params
    @wraps(method)
    async def checked(self: FlowTasks, params: Any, context: ServerCallContext) -> Any:
        del context
        await asyncio.to_thread(self._find, params.task_id)
        return await method(self, params)

    return checked


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
        # Not only until it needs input: another client may decide.
        async with aclosing(self._follow(task, FINAL_STATES)) as updates:
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

    @_about_known_task
    async def on_create_task_push_notification_config(
        self, params: TaskPushNotificationConfig
    ) -> TaskPushNotificationConfig:
        """Save where a client wants to be notified of a task."""
        config = await check_config(self._bus, params.task_id, params)
        await asyncio.to_thread(save_config, self._bus, config)
        return config

    @_about_known_task
    async def on_get_task_push_notification_config(
        self, params: GetTaskPushNotificationConfigRequest
    ) -> TaskPushNotificationConfig:
        """Return a configuration."""
        return await find_config(self._bus, params.task_id, params.id)

    @_about_known_task
    async def on_list_task_push_notification_configs(
        self, params: ListTaskPushNotificationConfigsRequest
    ) -> ListTaskPushNotificationConfigsResponse:
        """Return all configurations of a task, which are few, on one page."""
        return ListTaskPushNotificationConfigsResponse(configs=await list_configs(self._bus, params.task_id))

    @_about_known_task
    async def on_delete_task_push_notification_config(self, params: DeleteTaskPushNotificationConfigRequest) -> None:
        """Remove a configuration."""
        await remove_config(self._bus, params.task_id, params.id)

    async def on_get_extended_agent_card(self, *_: object) -> NoReturn:
        """Refuse: there is one card."""
        raise ExtendedAgentCardNotConfiguredError

    async def _send(self, params: SendMessageRequest, context: ServerCallContext) -> FlowTask:
        scope: Scope = context.state.get(_SCOPE, {})
        message = params.message
        # Derived, so that a message without a context is one task too, however often it is sent.
        stream_id = message.context_id or derived_event_id("a2a context", message.message_id)
        task_id = message.task_id or derived_event_id("a2a", stream_id, message.message_id)
        config = None
        if params.configuration.HasField("task_push_notification_config"):
            config = await check_config(self._bus, task_id, params.configuration.task_push_notification_config)
        submit = self._decide if message.task_id else partial(self._submit, stream_id=stream_id, task_id=task_id)
        return await asyncio.to_thread(submit, message, scope, config)

    def _submit(
        self,
        message: Message,
        scope: Scope,
        config: TaskPushNotificationConfig | None,
        *,
        stream_id: str,
        task_id: str,
    ) -> FlowTask:
        """Publish a message as a new task."""
        text = _read_text(message)
        with _as_protocol_errors():
            check_stream(self._bus, self._scope, stream_id, is_write=True)
            if config is not None:
                # Before the message is published: the client is notified of all that follows.
                save_config(self._bus, config)
            submit_message(
                self._bus,
                text,
                stream_id,
                user_id=user_of(scope),
                message_id=task_id,
                source="a2a",
                extra={MESSAGE_ID: message.message_id},
            )
            return self._find(task_id)

    def _decide(self, message: Message, scope: Scope, config: TaskPushNotificationConfig | None) -> FlowTask:
        """Decide the approval that a task waits for."""
        task = self._find(message.task_id)
        if message.context_id and message.context_id != task.stream_id:
            raise InvalidParamsError(message=f"contextId: the task is of the context {task.stream_id!r}; give that one")
        if task.approval is None:
            raise UnsupportedOperationError(
                message=f"task {message.task_id!r} waits for no decision; send the message without a task"
            )
        is_granted, reason = _read_decision(message)
        act = approvals.grant if is_granted else approvals.deny
        if config is not None:
            save_config(self._bus, config)
        with _as_protocol_errors():
            try:
                act(task.approval.approval_id, by=caller_of(scope) or _OPERATOR, reason=reason, bus=self._bus)
            except UsageError as error:
                if error.code != "approval_decided":
                    raise
            return self._find(message.task_id)

    def _find(self, task_id: str) -> FlowTask:
        """Read a task from the history. Raises TaskNotFoundError, also for a task of another user."""
        task = read_task(self._bus, task_id)
        if not may_use_stream(self._bus, self._scope.get(IDENTITY), task.stream_id):
            raise TaskNotFoundError(message=f"no task {task_id!r} is kept; its history may have been removed")
        return task

    def _find_all(self, task_ids: Iterable[str]) -> Iterator[FlowTask]:
        for task_id in task_ids:
            with suppress(TaskNotFoundError):
                yield self._find(task_id)

    def _list(self, params: ListTasksRequest) -> ListTasksResponse:
        if not params.context_id:
            raise UnsupportedOperationError(message="contextId: tasks are listed by context; give one")
        with _as_protocol_errors(), self._bus.state_store_access("listing tasks"):
            check_stream(self._bus, self._scope, params.context_id)
            recorded = self._bus.stores.history.read_stream(params.context_id)
        messages = [each.attributes for each in recorded if each.topic == "input.message.received"]
        # A task is named by the message that began its flow.
        ids = [str(message["event_id"]) for message in messages if message["event_id"] == message["correlation_id"]]
        tasks = [task for task in self._find_all(reversed(ids)) if params.status in {0, task.state}]
        start = int(params.page_token) if params.page_token.isdecimal() else 0
        size = min(params.page_size or _PAGE_SIZE, _MAX_PAGE_SIZE)
        following = str(start + size) if start + size < len(tasks) else ""
        return ListTasksResponse(
            tasks=[
                task.build_task(_history_length(params), has_artifacts=params.include_artifacts)
                for task in tasks[start : start + size]
            ],
            next_page_token=following,
            page_size=size,
            total_size=len(tasks),
        )

    async def _follow(
        self, task: FlowTask, until: Collection[TaskState] = WAITING_STATES
    ) -> AsyncGenerator[TaskUpdate]:
        """Yield the changes of a task until its state is one of these, by default until it ends or needs input."""
        if task.state in until:
            return
        with _as_protocol_errors():
            async with aclosing(follow_flow(task.position)) as items:
                async for item in items:
                    for update in task.advance(item):
                        yield update
                    if task.state in until:
                        return


class _CallContext(DefaultServerCallContextBuilder):
    """Hands on the ASGI scope, where the identity of the caller is."""

    def build(self, request: Request) -> ServerCallContext:
        context = super().build(request)
        context.state[_SCOPE] = request.scope
        return context


def _read_text(message: Message) -> str:
    """Return the text of a message. Raises ContentTypeNotSupportedError for parts that are not text."""
    if any(part.WhichOneof("content") != "text" for part in message.parts):
        raise ContentTypeNotSupportedError(message="parts: the agents read text; send text parts only")
    return "\n".join(part.text for part in message.parts)


def _read_decision(message: Message) -> tuple[bool, str]:
    """Return a decision and its reason, from data or from a text that is one word. Raises InvalidParamsError."""
    data = next((part for part in get_data_parts(message.parts) if isinstance(part, dict)), {})
    if isinstance(data.get("approved"), bool):
        return data["approved"], str(data.get("reason", ""))
    text = "".join(part.text for part in message.parts).strip().casefold().rstrip(".!")
    if text not in _DECISIONS:
        raise InvalidParamsError(
            message='the decision is missing; send the data {"approved": true} or {"approved": false}, or the text yes '
            "or no"
        )
    return _DECISIONS[text], ""


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
