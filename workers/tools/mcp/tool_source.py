"""A source: the tools of one MCP server, as the registry asks for them.

The server is started by the process that needs it, after any fork, and kept by the one that calls its tools; one that
has died is started anew before the next call. For its tools to be listed it is started and ended again, and they are
remembered for a while.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python

from petiole.events.content import Value
from petiole.events.errors import ProviderUnavailable, ToolFailed, invalid_arguments
from petiole.workers.tools.mcp.settings import ServerSettings
from petiole.workers.tools.tool import Accepted, Finding, Tool, ToolContext
from petiole.workers.tools.tool_policy import Terms

if TYPE_CHECKING:
    from mcp.types import CallToolResult
    from mcp.types import Tool as ServerTool

    from petiole.workers.tools.mcp.connection import Connection

FRESH_S = 300.0
"""How long a server's tools are remembered."""

TRIED_AGAIN_S = 10.0
"""How long it is not asked again that could not be reached; its calls fail meanwhile."""


@dataclass(slots=True)
class _Here:
    """What this process knows of a server."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    connection: Connection | None = None
    tools: Mapping[str, Tool] = field(default_factory=dict)
    listed_at: float = float("-inf")
    failed_at: float = float("-inf")
    failure: ProviderUnavailable | None = None


class McpServer:
    """The tools of one server. Raises: ProviderUnavailable."""

    def __init__(self, name: str, settings: ServerSettings) -> None:
        self._name = name
        self._settings = settings
        # By process: threads, and with them connections, do not follow into a forked child.
        self._by_process: dict[int, _Here] = {}

    @property
    def name(self) -> str:
        """What its tools' names begin with."""
        return self._name

    def tools(self) -> Mapping[str, Tool]:
        """Tell the server's tools by full name."""
        here = self._here()
        with here.lock:
            if time.monotonic() - here.listed_at > FRESH_S:
                was_connected = here.connection is not None
                self._connected(here)
                if not was_connected:
                    self._disconnect(here)
            return here.tools

    def get(self, name: str) -> Tool | None:
        """Look a tool up that is to be called: the server stays for that."""
        here = self._here()
        with here.lock:
            if here.connection is None or name not in here.tools or time.monotonic() - here.listed_at > FRESH_S:
                self._connected(here)
            return here.tools.get(name)

    def close(self) -> None:
        """End the server's process, where this one started it."""
        here = self._here()
        with here.lock:
            self._disconnect(here)

    def _here(self) -> _Here:
        return self._by_process.setdefault(os.getpid(), _Here())

    def _connected(self, here: _Here) -> Connection:
        """Return a connection to a server that has just answered; its tools are known anew."""
        if here.failure is not None and time.monotonic() - here.failed_at < TRIED_AGAIN_S:
            raise here.failure
        if here.connection is not None:
            try:
                return self._list(here, here.connection)
            except ProviderUnavailable:
                # It has ended since. Nothing was asked of it yet, so a new one may do it.
                self._disconnect(here)
        try:
            here.connection = _connection(self._name, self._settings)
            return self._list(here, here.connection)
        except ProviderUnavailable as error:
            self._disconnect(here)
            here.failure, here.failed_at = error, time.monotonic()
            raise

    def _list(self, here: _Here, connection: Connection) -> Connection:
        here.tools = self._made(connection.tools())
        here.listed_at, here.failure = time.monotonic(), None
        return connection

    def _disconnect(self, here: _Here) -> None:
        connection, here.connection = here.connection, None
        if connection is not None:
            connection.close()

    def _made(self, found: Sequence[ServerTool]) -> Mapping[str, Tool]:
        return {made.name: made for each in found for made in [self._tool(each)]}

    def _tool(self, found: ServerTool) -> Tool:
        name, schema = f"{self._name}.{found.name}", found.input_schema
        return Tool(
            name=name,
            description=found.description or found.title or "",
            schema=schema,
            accept=partial(_accepted, name, schema),
            run=partial(self._run, found.name),
            terms=self._terms(found.name),
        )

    def _terms(self, tool: str) -> Terms:
        ours = self._settings.petiole
        asked = ours.needs_approval
        return Terms(
            timeout_s=ours.timeout_s,
            needs_approval=asked if isinstance(asked, bool) else tool in asked,
            on_unfinished=ours.on_unfinished,
            guard=f"tool.{self._name.lower()}" if ours.guarded else None,
        )

    def _run(self, tool: str, accepted: Accepted, context: ToolContext) -> Finding:
        here = self._here()
        with here.lock:
            connection = self._connected(here)
        result = connection.call(tool, accepted, timeout_s=self._settings.petiole.timeout_s, report=context.report)
        return _finding(f"{self._name}.{tool}", result)


def _connection(name: str, settings: ServerSettings) -> Connection:
    from petiole.workers.tools.mcp.connection import Connection  # noqa: PLC0415 - needs the extra, and half a second

    return Connection(name, settings)


def _accepted(tool: str, schema: Mapping[str, Any], arguments: Mapping[str, Value]) -> Accepted:
    from jsonschema.exceptions import best_match  # noqa: PLC0415 - comes with the extra
    from jsonschema.validators import validator_for  # noqa: PLC0415 - as above

    accepted: Accepted = to_jsonable_python(arguments)
    errors = validator_for(schema)(schema).iter_errors(accepted)
    error = best_match(errors)  # type: ignore[no-untyped-call]  # jsonschema annotates little
    if error is not None:
        missing = [each for each in error.validator_value if each not in error.instance] if _is_missing(error) else []
        place = ".".join(str(step) for step in [*error.absolute_path, *missing[:1]]) or "arguments"
        raise invalid_arguments(tool, place, error.message)
    return accepted


def _is_missing(error: Any) -> bool:
    return bool(error.validator == "required")


def _finding(tool: str, result: CallToolResult) -> Finding:
    """Read a result: its structured content where it has one, else its words. Raises ToolFailed."""
    text = "\n".join(getattr(each, "text", None) or f"[{each.type}]" for each in result.content)
    if result.is_error:
        raise ToolFailed(tool, text or "it gave no reason")
    value = result.structured_content
    if isinstance(value, dict) and value.keys() == {"result"}:
        value = value["result"]  # how servers wrap what is no object
    return Finding(text if value is None else value, text)
