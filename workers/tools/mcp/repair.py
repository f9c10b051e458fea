"""Repair the messages of MCP servers before the client library validates them.

The library validates a list of tools as a whole, so one tool that is not to the letter would hide all others of its
server. It also refuses results that can be read. So a tool that the library would refuse is listed with a schema that
allows any arguments, and its own is kept aside for the validation of arguments; a result's content becomes text.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCResponse, Tool
from mcp_types import jsonrpc_message_adapter
from mcp_types.methods import validate_server_result
from pydantic import ValidationError

from petiole.events.texts import error_text, join_surrogates, safe_text

if TYPE_CHECKING:
    from mcp.client._transport import ReadStream

    Messages = ReadStream[SessionMessage | Exception]

log = logging.getLogger(__name__)

STRICTEST_VERSION = "2025-11-25"
"""The version of the protocol that refuses the most tools."""

OPEN_SCHEMA = {"type": "object"}
"""A schema that allows any arguments."""

_CODE_OF_ODD_ERRORS = -32_000  # JSON-RPC 2.0 leaves it to servers


class RepairedMessages:
    """The messages of a server, repaired.

    `schemas` receives the schemas of the tools by name, as the server gave them; `reported` what was logged already.
    """

    def __init__(
        self, server: str, messages: Messages, schemas: dict[str, Mapping[str, Any]], reported: set[str]
    ) -> None:
        self._server = server
        self._messages = messages
        self._schemas = schemas
        self._reported = reported

    async def receive(self) -> SessionMessage | Exception:
        """Receive the next message."""
        return self._repair(await self._messages.receive())

    async def aclose(self) -> None:
        """Close the stream."""
        await self._messages.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        return self._repair(await self._messages.__anext__())

    async def __aenter__(self) -> Self:
        await self._messages.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._messages.__aexit__(kind, error, trace)

    @property
    def last_context(self) -> Any:
        """What the client library reads of its own streams."""
        return getattr(self._messages, "last_context", None)

    def _repair(self, message: SessionMessage | Exception) -> SessionMessage | Exception:
        if isinstance(message, ValidationError):
            message = _parse_again(message)
        if not isinstance(message, SessionMessage) or not isinstance(message.message, JSONRPCResponse):
            return message
        result = message.message.result
        if isinstance(tools := result.get("tools"), list):
            result["tools"] = [listed for tool in tools if (listed := self._repair_tool(tool)) is not None]
        elif result.keys() & {"content", "structuredContent", "isError"}:
            _repair_result(result)
        return message

    def _repair_tool(self, tool: object) -> dict[str, Any] | None:
        if not isinstance(tool, dict) or not isinstance(name := tool.get("name"), str):
            self._report("mcp.tool_unreadable", safe_text(tool, 200), "it has no name")
            return None
        schema = tool.get("inputSchema")
        self._schemas[name] = schema if isinstance(schema, dict) else OPEN_SCHEMA
        # Results are read as they are, so they are not validated against the tool's own claim.
        listed = {key: value for key, value in tool.items() if key != "outputSchema"}
        try:
            Tool.model_validate(listed, by_name=False)
            validate_server_result("tools/list", STRICTEST_VERSION, {"tools": [listed]})
        except ValidationError as error:
            self._report("mcp.tool_repaired", safe_text(name, 200), error_text(error))
            texts = {key: tool[key] for key in ("title", "description") if isinstance(tool.get(key), str)}
            return {"name": name, "inputSchema": OPEN_SCHEMA, **texts}
        return listed

    def _report(self, message: str, tool: str, error: str) -> None:
        if tool not in self._reported:
            self._reported.add(tool)
            log.warning(message, extra={"server": self._server, "tool": tool, "error": error})


def _repair_result(result: dict[str, Any]) -> None:
    """Write the content of a result as texts, and its structured content as an object."""
    content = result.get("content")
    blocks = content if isinstance(content, list) else [content]
    result["content"] = [{"type": "text", "text": _block_text(block)} for block in blocks if block is not None]
    result["isError"] = result.get("isError") is True
    if not isinstance(result.get("structuredContent", {}), dict):
        result["structuredContent"] = {"result": result["structuredContent"]}


def _block_text(block: object) -> str:
    match block:
        case str():
            return block
        case {"text": str(text)} | {"resource": {"text": str(text)}}:
            return text
        case {"type": str(kind)}:
            return f"[{kind}]"
    return safe_text(block)


def _parse_again(error: ValidationError) -> SessionMessage | Exception:
    """Parse a message that the library could not parse: half a surrogate pair, an odd result, an odd error."""
    given = error.errors(include_url=False)[0]["input"]
    try:
        document = given if isinstance(given, dict) else json.loads(given)
        if not isinstance(document, dict):
            return error
        if not isinstance(document.get("result", {}), dict):
            document["result"] = {"content": [document["result"]]}
        if "error" in document:
            document["error"] = {"code": _CODE_OF_ODD_ERRORS, "message": safe_text(document["error"])}
        text = join_surrogates(json.dumps(document, ensure_ascii=False))
        return SessionMessage(jsonrpc_message_adapter.validate_json(text, by_name=False))
    except (ValueError, TypeError, RecursionError):
        return error
