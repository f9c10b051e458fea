"""MCP server: models and clients of others use the agents. Needs the extra `mcp`.

    /mcp        Streamable HTTP, without sessions

Tools:

    petiole_ask         send a message of a user, and wait for the answer; sent again, it is published once
    petiole_publish     publish an event of your own types, or of the families custom, input and message
    petiole_request     send a request to an agent, and wait for its reply
    …                   each tool of the agent `tools`, with its approvals, limits and records

Resources: `petiole://streams/{stream_id}/events` and `petiole://flows/{flow_id}/events`, the recorded events as JSON.

A caller uses the streams of its user; to publish and to request needs the role operator (identities.py). A call runs as
events, so it is not lost with the connection. A call of an agent's tool has its own flow. A client that declares the
extension `io.modelcontextprotocol/tasks` gets a call that lasts as a task (mcp_tasks.py).

Source: Model Context Protocol, 2026-07-28 and earlier versions that the package `mcp` speaks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import unquote

from mcp import types
from mcp.server import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from mcp_types.methods import validate_server_result
from pydantic import ValidationError
from pydantic_core import to_json
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from petiole.events.catalog.request import RequestContent, RequestEvent
from petiole.events.catalog.tools import ToolExecution, ToolExecutionRequestedEvent
from petiole.events.errors import PetioleError, UsageError
from petiole.events.event import EventContext
from petiole.events.ids import derived_event_id, new_event_id
from petiole.events.texts import error_text
from petiole.events.topics import is_topic
from petiole.tasks.publishing.commit import commit
from petiole.tasks.publishing.validation import validate
from petiole.tasks.requests.requester import Requester
from petiole.tasks.runtime import BusRuntime
from petiole.workers.gateways.identities import IDENTITY, check_stream
from petiole.workers.gateways.mcp_calls import SOURCE, build_result, find_call
from petiole.workers.gateways.mcp_tasks import CallTasks, accepts_tasks
from petiole.workers.gateways.messages import publish_event, submit_message, user_of
from petiole.workers.gateways.problems import RequestRefused
from petiole.workers.gateways.resource_metadata import MCP_PATH, build_metadata_routes
from petiole.workers.gateways.tokens import Identity
from petiole.workers.tools import Tool, installed_tools
from petiole.workers.tools.mcp.repair import OPEN_SCHEMA, STRICTEST_VERSION

_OPEN_FAMILIES: Final = frozenset({"custom", "input", "message"})
_PUBLISH_FIELDS: Final = ("event_type", "stream_id", "content", "event_id")
_STREAMS, _FLOWS = "petiole://streams/", "petiole://flows/"
_MAX_RESOURCE_EVENTS: Final = 500


def routes(bus: BusRuntime) -> list[BaseRoute]:
    """Build the routes of the server, and of what it says of its tokens."""
    return [Route(MCP_PATH, _Endpoint(bus)), *build_metadata_routes()]


class _Endpoint:
    """The ASGI application. Each request has a session manager of its own, because nothing is kept between them."""

    def __init__(self, bus: BusRuntime) -> None:
        self._bus = bus

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        manager = StreamableHTTPSessionManager(AgentTools(self._bus, scope).build_server(), stateless=True)
        async with manager.run():
            await manager.handle_request(scope, receive, send)


class AgentTools:
    """What the server offers to the caller of a request: the agents as tools, and their events as resources."""

    def __init__(self, bus: BusRuntime, scope: Scope) -> None:
        self._bus = bus
        self._scope = scope
        self._tasks = CallTasks(bus, scope)
        self._begin = {_ASK.name: self._ask, _REQUEST.name: self._request}

    def build_server(self) -> Server[Any]:
        """Build the protocol's server."""

        async def list_tools(_: object, __: object) -> types.ListToolsResult:
            return types.ListToolsResult(tools=await asyncio.to_thread(self._tools))

        async def list_templates(_: object, __: object) -> types.ListResourceTemplatesResult:
            return types.ListResourceTemplatesResult(resource_templates=list(_TEMPLATES))

        async def read_resource(_: object, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
            try:
                text = await asyncio.to_thread(self._read, str(params.uri))
            except RequestRefused as error:
                raise MCPError(types.INVALID_PARAMS, error_text(error)) from error
            contents = types.TextResourceContents(uri=params.uri, mime_type="application/json", text=text)
            return types.ReadResourceResult(contents=[contents])

        server = Server(
            "petiole",
            on_list_tools=list_tools,
            on_list_resource_templates=list_templates,
            on_read_resource=read_resource,
        )
        server.add_request_handler("tools/call", types.CallToolRequestParams, self.call)
        self._tasks.register(server)
        return server

    async def call(
        self, context: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult | dict[str, Any]:
        """Call a tool. What its caller can correct is a result with an error."""
        try:
            arguments = params.arguments or {}
            if params.name == _PUBLISH.name:
                return build_result(await asyncio.to_thread(self._publish, arguments))
            call_id = await asyncio.to_thread(self._begin.get(params.name, partial(self._run, params.name)), arguments)
            call = await asyncio.to_thread(find_call, self._bus, call_id)
            if call is None:
                return build_result("the history of the call was removed; call the tool again", is_error=True)
            if accepts_tasks(context):
                return await self._tasks.wait_or_create(call)
            await call.follow()
        except (PetioleError, RequestRefused, ValidationError) as error:
            return build_result(error_text(error), is_error=True)
        return call.result or build_result("the call was cancelled", is_error=True)

    def _check_operator(self) -> None:
        """Raise UsageError for users: agents act on events and requests without asking whose they are."""
        if not self._scope[IDENTITY].may("operator"):
            raise UsageError("this needs the role operator; send a token of that role, or use petiole_ask")

    def _check_user(self) -> None:
        """Raise UsageError for callers who use no streams: a tool runs for a user, as in a conversation."""
        identity: Identity = self._scope[IDENTITY]
        if identity.user_id is None and identity.role != "admin":
            raise UsageError("a tool runs for a user; send a token that has one")

    def _tools(self) -> list[types.Tool]:
        return [_ASK, _PUBLISH, _REQUEST, *map(_list_tool, installed_tools().all())]

    def _ask(self, arguments: dict[str, Any]) -> str:
        """Publish a message of a user, and return the id of its flow."""
        stream_id, message_id = _text(arguments, "stream_id"), str(arguments.get("message_id") or new_event_id())
        check_stream(self._bus, self._scope, stream_id, is_write=True)
        flow_id, text = derived_event_id("mcp", stream_id, message_id), _text(arguments, "text")
        user_id = user_of(self._scope)
        return submit_message(self._bus, text, stream_id, user_id=user_id, message_id=flow_id, source=SOURCE)

    def _publish(self, arguments: dict[str, Any]) -> str:
        topic = _text(arguments, "event_type")
        known = self._bus.event_registry.get(topic) if is_topic(topic) else None
        if known is not None and known.is_builtin and topic.partition(".")[0] not in _OPEN_FAMILIES:
            raise UsageError(f"{topic!r} is published by the agents only; publish a type of your own, or 'message.…'")
        self._check_operator()
        check_stream(self._bus, self._scope, _text(arguments, "stream_id"), is_write=True)
        document = {name: arguments[name] for name in _PUBLISH_FIELDS if arguments.get(name) is not None}
        document["context"] = {"source": SOURCE, "user_id": user_of(self._scope)}
        (publication,) = commit(self._bus, [validate(self._bus, document)], is_refusable=True)
        return publication.event.event_id

    def _request(self, arguments: dict[str, Any]) -> str:
        """Send a request, and return the id of its flow."""
        self._check_operator()
        content = RequestContent(
            request_type=_text(arguments, "request_type"),
            responder=_text(arguments, "responder"),
            requester=SOURCE,
            parameters=arguments.get("parameters") or {},
        )
        event = RequestEvent(content=content, context=EventContext(source=SOURCE))
        Requester(self._bus)(event, timeout=arguments.get("timeout_s"))
        return event.event_id

    def _run(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Let the agent `tools` run a tool, and return the id of the flow. Raises UsageError (unknown_tool)."""
        self._check_user()
        installed_tools().get(name)
        call_id = new_event_id()
        event = ToolExecutionRequestedEvent(
            stream_id=f"mcp-{call_id}",
            content=ToolExecution(call_id=call_id, tool=name, arguments=dict(arguments)),
            context=EventContext(source=SOURCE, user_id=user_of(self._scope)),
        )
        publish_event(self._bus, event)
        return event.event_id

    def _read(self, uri: str) -> str:
        """Read the events of a stream or a flow. Raises MCPError for another resource."""
        name = unquote(uri.removesuffix("/events").removeprefix(_STREAMS).removeprefix(_FLOWS))
        history = self._bus.stores.history
        if not uri.endswith("/events") or not uri.startswith((_STREAMS, _FLOWS)):
            raise MCPError(types.INVALID_PARAMS, f"no resource {uri!r}; see the list of resource templates")
        with self._bus.state_store_access(f"reading {uri!r}"):
            found = history.read_stream(name) if uri.startswith(_STREAMS) else history.read_flow(name)
            for stream_id in {str(recorded.attributes["stream_id"]) for recorded in found} or {name}:
                check_stream(self._bus, self._scope, stream_id)
            return to_json([recorded.document_or_stub for recorded in found[-_MAX_RESOURCE_EVENTS:]]).decode()


def _list_tool(tool: Tool) -> types.Tool:
    """Describe a tool, without its schema if the protocol forbids that: it would fail the list of all tools."""
    listed = types.Tool(name=tool.name, description=tool.description, input_schema=dict(tool.schema))
    try:
        result = types.ListToolsResult(tools=[listed]).model_dump(mode="json", by_alias=True, exclude_none=True)
        validate_server_result("tools/list", STRICTEST_VERSION, result)
    except ValueError:
        return listed.model_copy(update={"input_schema": OPEN_SCHEMA})
    return listed


def _text(arguments: Mapping[str, Any], name: str) -> str:
    """Return an argument that has to be text. Raises UsageError."""
    value = arguments.get(name)
    if not isinstance(value, str) or not value:
        raise UsageError(f"{name} is missing or no text; give it as text")
    return value


def _tool(name: str, description: str, required: tuple[str, ...], **properties: Mapping[str, str]) -> types.Tool:
    schema = {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}
    return types.Tool(name=name, description=description, input_schema=schema)


def _string(description: str) -> Mapping[str, str]:
    return {"type": "string", "description": description}


_ASK: Final = _tool(
    "petiole_ask",
    "Send a message to the agents, and wait for their answer.",
    ("stream_id", "text"),
    stream_id=_string("the conversation; the same one for messages that belong together"),
    text=_string("the message"),
    message_id=_string("an id of yours; a message with an id that was used is not published again"),
)
_PUBLISH: Final = _tool(
    "petiole_publish",
    "Publish an event. Returns its id.",
    ("event_type", "stream_id", "content"),
    event_type=_string("the topic, such as message.order_placed"),
    stream_id=_string("the conversation that it belongs to"),
    content={"type": "object", "description": "the content that the type has"},
    event_id=_string("a UUID of yours; an event with an id that was used is not published again"),
)
_REQUEST: Final = _tool(
    "petiole_request",
    "Send a request to an agent, and wait for its reply.",
    ("request_type", "responder"),
    request_type=_string("the type of the request"),
    responder=_string("the agent that replies"),
    parameters={"type": "object", "description": "the parameters of the request"},
    timeout_s={"type": "number", "description": "how long to wait, in seconds"},
)
_TEMPLATES: Final = (
    types.ResourceTemplate(
        name="events of a stream", uri_template=_STREAMS + "{stream_id}/events", mime_type="application/json"
    ),
    types.ResourceTemplate(
        name="events of a flow", uri_template=_FLOWS + "{flow_id}/events", mime_type="application/json"
    ),
)
