"""McpToolSource: the tools of one MCP server, for the tool registry.

Each process that calls a tool has its own connection, opened after any fork. A server that has exited is started again
before the next call. To list the tools, a process without a connection connects, disconnects, and caches the list.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python

from petiole.events.content import Value
from petiole.events.errors import ProviderUnavailable, ToolFailed, invalid_arguments
from petiole.workers.tools.mcp.settings import ServerSettings
from petiole.workers.tools.tool import Tool, ToolContext, ToolOutput, ValidatedArguments
from petiole.workers.tools.tool_policy import ToolPolicy

if TYPE_CHECKING:
    from jsonschema.protocols import Validator
    from mcp.types import CallToolResult
    from mcp.types import Tool as ServerTool

    from petiole.workers.tools.mcp.connection import McpConnection

TOOL_LIST_CACHE_S = 300.0
"""How long the list of a server's tools is cached."""

FIRST_LIST_TIMEOUT_S = 10.0
"""How long the first list of a process waits for a server. Later ones wait for none."""

RECONNECT_DELAY_S = 10.0
"""How long calls fail without a new attempt after a server could not be reached."""


@dataclass(slots=True)
class _ProcessState:
    """The connection and cached tools of one process."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    connection: McpConnection | None = None
    tools: Mapping[str, Tool] = field(default_factory=dict)
    listed_at: float = float("-inf")
    failed_at: float = float("-inf")
    failure: ProviderUnavailable | None = None
    executor: ThreadPoolExecutor = field(default_factory=partial(ThreadPoolExecutor, 1))
    listing: Future[None] | None = None
    listing_deadline: float = float("-inf")


class McpToolSource:
    """The tools of one server. Methods raise ProviderUnavailable."""

    def __init__(self, name: str, settings: ServerSettings) -> None:
        self._name = name
        self._settings = settings
        self._reported: set[str] = set()
        # One per process, because threads and connections do not survive a fork.
        self._by_process: dict[int, _ProcessState] = {}

    @property
    def name(self) -> str:
        """The name of the server."""
        return self._name

    def tools(self) -> Mapping[str, Tool]:
        """Return the server's tools by full name, as last listed; an old list is renewed in the background.

        Answers wait for this list, so a server that never answers must not delay each of them.
        """
        state = self._state()
        if time.monotonic() - state.listed_at > TOOL_LIST_CACHE_S:
            listing = self._start_listing(state)
            if state.failure is None and state.listed_at == float("-inf"):
                self._wait_for_first_list(listing, state.listing_deadline)
        if state.failure is not None:
            raise state.failure
        return state.tools

    def get(self, name: str) -> Tool | None:
        """Look up a tool for a call, and keep the connection open."""
        state = self._state()
        with state.lock:
            if (
                state.connection is None
                or name not in state.tools
                or time.monotonic() - state.listed_at > TOOL_LIST_CACHE_S
            ):
                self._connect(state)
            return state.tools.get(name)

    def close(self) -> None:
        """Close this process's connection, and stop the server if this process started it."""
        state = self._state()
        with state.lock:
            self._disconnect(state)

    def _state(self) -> _ProcessState:
        return self._by_process.setdefault(os.getpid(), _ProcessState())

    def _start_listing(self, state: _ProcessState) -> Future[None]:
        if state.listing is None or state.listing.done():
            state.listing_deadline = time.monotonic() + FIRST_LIST_TIMEOUT_S
            state.listing = state.executor.submit(self._list, state)
        return state.listing

    def _list(self, state: _ProcessState) -> None:
        with state.lock:
            was_connected = state.connection is not None
            self._connect(state)
            if not was_connected:
                self._disconnect(state)

    def _wait_for_first_list(self, listing: Future[None], deadline: float) -> None:
        try:
            listing.result(timeout=max(0.0, deadline - time.monotonic()))
        except TimeoutError as error:
            reason = f"it has not listed its tools within {FIRST_LIST_TIMEOUT_S:g} s"
            raise ProviderUnavailable(f"the MCP server {self._name!r}", reason) from error

    def _connect(self, state: _ProcessState) -> McpConnection:
        """Return a working connection. Listing the tools verifies it and refreshes the cache."""
        if state.failure is not None and time.monotonic() - state.failed_at < RECONNECT_DELAY_S:
            raise state.failure
        if state.connection is not None:
            try:
                return self._refresh_tools(state, state.connection)
            except ProviderUnavailable:
                # The server has exited. It had no call of this request, so a new server may take it.
                self._disconnect(state)
        try:
            state.connection = _open_connection(self._name, self._settings, self._reported)
            return self._refresh_tools(state, state.connection)
        except ProviderUnavailable as error:
            self._disconnect(state)
            state.failure, state.failed_at = error, time.monotonic()
            raise

    def _refresh_tools(self, state: _ProcessState, connection: McpConnection) -> McpConnection:
        listed = connection.tools()
        state.tools = {tool.name: tool for tool in (self._build_tool(each, connection.schemas) for each in listed)}
        state.listed_at, state.failure = time.monotonic(), None
        return connection

    def _disconnect(self, state: _ProcessState) -> None:
        connection, state.connection = state.connection, None
        if connection is not None:
            connection.close()

    def _build_tool(self, server_tool: ServerTool, schemas: Mapping[str, Mapping[str, Any]]) -> Tool:
        name = f"{self._name}.{server_tool.name}"
        schema = schemas.get(server_tool.name, server_tool.input_schema)
        return Tool(
            name=name,
            description=server_tool.description or server_tool.title or "",
            schema=schema,
            validate=partial(_validate_arguments, name, schema),
            run=partial(self._run, server_tool.name),
            policy=self._tool_policy(server_tool.name),
        )

    def _tool_policy(self, tool: str) -> ToolPolicy:
        policy = self._settings.petiole
        return ToolPolicy(
            timeout_s=policy.timeout_s,
            needs_approval=_applies_to(tool, policy.needs_approval),
            is_repeatable=_applies_to(tool, policy.repeatable),
            on_unfinished=policy.on_unfinished,
            breaker=f"tool.{self._name.lower()}" if policy.guarded else None,
        )

    def _run(self, tool: str, arguments: ValidatedArguments, context: ToolContext) -> ToolOutput:
        state = self._state()
        with state.lock:
            connection = self._connect(state)
        result = connection.call(tool, arguments, timeout_s=self._settings.petiole.timeout_s, report=context.report)
        return _read_result(f"{self._name}.{tool}", result)


def _applies_to(tool: str, setting: bool | tuple[str, ...]) -> bool:  # noqa: FBT001 - all tools, or some by name
    return setting if isinstance(setting, bool) else tool in setting


def _open_connection(name: str, settings: ServerSettings, reported: set[str]) -> McpConnection:
    from petiole.workers.tools.mcp.connection import McpConnection  # noqa: PLC0415 - an extra; the import takes 0.5 s

    _validator_class(None)  # loads the library, so that the first call need not
    return McpConnection(name, settings, reported)


def _validate_arguments(tool: str, schema: Mapping[str, Any], arguments: Mapping[str, Value]) -> ValidatedArguments:
    from jsonschema.exceptions import best_match  # noqa: PLC0415 - an extra
    from referencing import Registry  # noqa: PLC0415 - of that extra

    validated: ValidatedArguments = to_jsonable_python(arguments)
    # With a registry of its own, the library fetches no schema from the address that a reference names.
    dialect = schema.get("$schema")
    errors = _validator_class(dialect if isinstance(dialect, str) else None)(schema, registry=Registry()).iter_errors(
        validated
    )
    error = best_match(errors)  # type: ignore[no-untyped-call]  # jsonschema annotates little
    if error is not None:
        is_required = _is_required_error(error)
        missing = [name for name in error.validator_value if name not in error.instance] if is_required else []
        location = ".".join(str(step) for step in [*error.absolute_path, *missing[:1]]) or "arguments"
        raise invalid_arguments(tool, location, error.message)
    return validated


@cache
def _validator_class(dialect: str | None) -> type[Validator]:
    """Choose the validator of a dialect, without the keywords that run regular expressions.

    A server's expression may take for ever, and no time limit interrupts it. The server checks its patterns itself.
    """
    from jsonschema.validators import Draft202012Validator, extend, validator_for  # noqa: PLC0415 - an extra

    chosen = validator_for({"$schema": dialect} if dialect else {}, default=Draft202012Validator)
    check_additional = chosen.VALIDATORS["additionalProperties"]

    def check_without_patterns(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        return iter(()) if "patternProperties" in schema else check_additional(validator, value, instance, schema)

    skipped = dict.fromkeys(("pattern", "patternProperties", "unevaluatedProperties"), lambda *_: iter(()))
    without_patterns = {**skipped, "additionalProperties": check_without_patterns}
    extended: type[Validator] = extend(chosen, without_patterns)  # type: ignore[no-untyped-call]  # as above
    return extended


def _is_required_error(error: Any) -> bool:
    return bool(error.validator == "required")


def _read_result(tool: str, result: CallToolResult) -> ToolOutput:
    """Read a result: its structured content if present, else its text. Raises ToolFailed."""
    text = "\n".join(getattr(block, "text", None) or f"[{block.type}]" for block in result.content)
    if result.is_error:
        raise ToolFailed(tool, text or "it gave no reason")
    value = result.structured_content
    if isinstance(value, dict) and value.keys() == {"result"}:
        value = value["result"]  # servers wrap other values than objects like this
    return ToolOutput(text if value is None else value, text)
