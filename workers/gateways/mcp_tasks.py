"""Tasks of MCP: calls that last. A client fetches the result later, from any server, also after a restart.

    tools/call      with the extension declared: a call that has not ended within a second is answered with its task
    tasks/get       the task, with its result, or with what it needs from the client
    tasks/update    the client's answers: an approval is an elicitation of {"approved": true or false}
    tasks/cancel    ends all that runs or waits for the call

A task is the flow of its call (mcp_calls.py), and its id is the flow's. Tasks are not listed, and their changes are not
sent as notifications: the extension has no list, and notifications are optional.

Source: the extension io.modelcontextprotocol/tasks (SEP-2663) of the Model Context Protocol, 2026-07-28.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import Any, Final

from mcp import types
from mcp.server import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.mcpserver.server import require_client_extension
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from starlette.types import Scope

from petiole.events.catalog.request import RequestEvent
from petiole.events.catalog.tools import ApprovalRequest
from petiole.events.errors import PetioleError, UsageError
from petiole.events.texts import error_text
from petiole.tasks.operations.flow_cancellation import cancel_flow
from petiole.tasks.runtime import BusRuntime
from petiole.workers.gateways.identities import IDENTITY, may_use_stream
from petiole.workers.gateways.mcp_calls import FlowCall, find_call
from petiole.workers.gateways.messages import caller_of
from petiole.workers.gateways.tokens import Identity
from petiole.workers.tools import approvals

EXTENSION: Final = "io.modelcontextprotocol/tasks"
POLL_INTERVAL_MS: Final = 1_000

_DIRECT_RESULT_S: Final = 1.0
"""A call that ends within this time is answered with its result."""

_OPERATOR: Final = "an MCP client"


class TaskParams(types.RequestParams):
    """The parameters of tasks/get and tasks/cancel."""

    task_id: str


class UpdateParams(TaskParams):
    """The parameters of tasks/update."""

    input_responses: types.InputResponses


class CallTasks:
    """The methods of the extension on a bus, for the caller of a request."""

    def __init__(self, bus: BusRuntime, scope: Scope) -> None:
        self._bus = bus
        self._scope = scope
        self._caller = caller_of(scope) or _OPERATOR

    def register(self, server: Server[Any]) -> None:
        """Add the methods to a server, and declare the extension."""
        server.extensions[EXTENSION] = {}
        server.add_request_handler("tasks/get", TaskParams, self.get)
        server.add_request_handler("tasks/update", UpdateParams, self.update)
        server.add_request_handler("tasks/cancel", TaskParams, self.cancel)

    async def wait_or_create(self, call: FlowCall) -> types.CallToolResult | dict[str, Any]:
        """Return the result of a call, or its task if it lasts."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_DIRECT_RESULT_S):
                await call.follow()
        if call.result is not None:
            return call.result
        # Read again: the wait may have ended while it read.
        return self._build(await self._find(call.id)) | {"resultType": "task"}

    async def get(self, context: ServerRequestContext[Any, Any], params: TaskParams) -> dict[str, Any]:
        """Return a task. Raises MCPError."""
        check_task_request(context, params)
        return self._build(await self._find(params.task_id))

    async def update(self, context: ServerRequestContext[Any, Any], params: UpdateParams) -> dict[str, Any]:
        """Decide approvals; answers to what is not asked are ignored. Raises MCPError."""
        check_task_request(context, params)
        call = await self._find(params.task_id)
        for approval_id, response in params.input_responses.items():
            if approval_id in call.pending:
                await asyncio.to_thread(self._decide, approval_id, response)
        return {}

    async def cancel(self, context: ServerRequestContext[Any, Any], params: TaskParams) -> dict[str, Any]:
        """Cancel a task; one that has ended stays as it is. Raises MCPError."""
        check_task_request(context, params)
        call = await self._find(params.task_id)
        if not call.is_over:
            await asyncio.to_thread(partial(_as_protocol_errors, cancel_flow, call.id, by=self._caller, bus=self._bus))
        return {}

    async def _find(self, task_id: str) -> FlowCall:
        call: FlowCall | None = await asyncio.to_thread(_as_protocol_errors, find_call, self._bus, task_id)
        if call is None or not await asyncio.to_thread(_as_protocol_errors, self._may_use, call):
            reason = f"no task {task_id!r} is kept; its history may have been removed"
            raise MCPError(types.INVALID_PARAMS, reason)
        return call

    def _may_use(self, call: FlowCall) -> bool:
        """Return whether the caller may use a call: as its stream, and a request, which has none, as an operator."""
        identity: Identity | None = self._scope.get(IDENTITY)
        if isinstance(call.event, RequestEvent):
            return identity is not None and identity.may("operator")
        return may_use_stream(self._bus, identity, call.event.stream_id)

    def _decide(self, approval_id: str, response: types.InputResponse) -> None:
        is_accepted = isinstance(response, types.ElicitResult) and response.action == "accept"
        content = response.content or {} if isinstance(response, types.ElicitResult) else {}
        act = approvals.grant if is_accepted and content.get("approved") is True else approvals.deny
        try:
            act(
                approval_id,
                by=self._caller,
                reason=str(content.get("reason") or ""),
                bus=self._bus,
            )
        except UsageError as error:
            if error.code != "approval_decided":
                raise MCPError(types.INVALID_PARAMS, error_text(error)) from error

    def _build(self, call: FlowCall) -> dict[str, Any]:
        """Build the protocol's task."""
        task: dict[str, Any] = {
            "taskId": call.id,
            "status": "working",
            "createdAt": call.event.timestamp.isoformat(),
            "lastUpdatedAt": call.updated_at.isoformat(),
            "ttlMs": round(self._bus.settings.history_retention_s * 1_000),
            "pollIntervalMs": POLL_INTERVAL_MS,
        }
        if call.result is not None:
            result = call.result.model_dump(by_alias=True, mode="json", exclude_none=True)
            return task | {"status": "completed", "result": result}
        if call.is_cancelled:
            return task | {"status": "cancelled"}
        if call.pending:
            asked = {name: build_elicitation(approval) for name, approval in call.pending.items()}
            return task | {"status": "input_required", "inputRequests": asked}
        return task


def check_task_request(context: ServerRequestContext[Any, Any], params: TaskParams) -> None:
    """Refuse a client without the extension, and a routing header that names another task. Raises MCPError."""
    require_client_extension(context, EXTENSION)
    headers = getattr(context.request, "headers", {})
    if headers.get("mcp-name") != params.task_id:
        raise MCPError(types.HEADER_MISMATCH, "the header Mcp-Name is not the taskId of the body; send the same")


def accepts_tasks(context: ServerRequestContext[Any, Any]) -> bool:
    """Return whether the client of a request takes a task in place of a result."""
    capabilities = context.session.client_capabilities
    declared = (capabilities.extensions if capabilities else None) or {}
    return EXTENSION in declared and context.protocol_version in MODERN_PROTOCOL_VERSIONS


def build_elicitation(approval: ApprovalRequest) -> dict[str, Any]:
    """Build the request by which a user is asked to approve a tool call."""
    arguments = approval.model_dump_json(include={"arguments"})
    schema = {
        "type": "object",
        "properties": {"approved": {"type": "boolean"}, "reason": {"type": "string"}},
        "required": ["approved"],
    }
    message = f"Approve the call of {approval.tool}? {arguments}"
    return {
        "method": "elicitation/create",
        "params": {"mode": "form", "message": message, "requestedSchema": schema},
    }


def _as_protocol_errors(function: Any, /, *arguments: Any, **options: Any) -> Any:
    try:
        return function(*arguments, **options)
    except PetioleError as error:
        raise MCPError(types.INTERNAL_ERROR, f"{error_text(error)}; send the request again later") from error
