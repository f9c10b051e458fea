"""McpConnection: a connection to one MCP server, which is a child process or is reached over HTTP.

The client library is asynchronous; its event loop runs in a thread of its own, and calls block the calling thread.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO, TypeAlias

import httpx2
from anyio.from_thread import start_blocking_portal
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CONNECTION_CLOSED, REQUEST_TIMEOUT, CallToolResult, Tool

from petiole.events.errors import ProviderUnavailable, ToolFailed
from petiole.events.texts import error_text
from petiole.workers.response_limits import REQUEST_HEADERS, limit_response
from petiole.workers.tools.mcp.repair import RepairedMessages
from petiole.workers.tools.mcp.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mcp.client._transport import Transport, TransportStreams

SERVER_START_TIMEOUT_S = 30.0
"""How long a server may take to start and to list its tools."""

_HTTP_TIMEOUTS = httpx2.Timeout(SERVER_START_TIMEOUT_S, read=300.0)
"""Reading may take longer than connecting, because servers keep event streams open. Calls have their own limit."""

_CLOSE_TIMEOUT_S = 1.0
_POLL_INTERVAL_S = 0.1
_MAX_PAGES = 100

_Progress: TypeAlias = tuple[float, float | None, str | None]
"""Progress, total and message of a progress notification."""

log = logging.getLogger(__name__)


class McpConnection:
    """A connection to one server, for all threads of the process that opened it. Raises ProviderUnavailable.

    `schemas` has the schemas of the listed tools as the server gave them; those of `tools()` may be simpler. `reported`
    has the tools whose faults were logged by earlier connections.
    """

    def __init__(self, name: str, settings: ServerSettings, reported: set[str]) -> None:
        self._name = name
        self.schemas: dict[str, Mapping[str, Any]] = {}
        self._stack = ExitStack()
        try:
            self._portal = self._stack.enter_context(start_blocking_portal(name=f"petiole-mcp-{name}"))
            transport = _repaired(name, _transport(settings), self.schemas, reported)
            client = Client(transport, read_timeout_seconds=SERVER_START_TIMEOUT_S)
            self._client = self._stack.enter_context(self._portal.wrap_async_context_manager(client))
        except BaseException as error:
            # Stop the server's process and the thread after any exception, including that of a time limit.
            self._stack.__exit__(type(error), error, error.__traceback__)
            if not isinstance(error, Exception):
                raise
            raise self._unavailable(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tools(self) -> Sequence[Tool]:
        """List the server's tools. Raises ProviderUnavailable if the server does not answer."""
        try:
            return self._portal.call(self._list_all_tools)
        except Exception as error:
            raise self._unavailable(error) from error

    def call(
        self, tool: str, arguments: Mapping[str, Any], *, timeout_s: float, report: Callable[[float, str], None]
    ) -> CallToolResult:
        """Call a tool, and report its progress in this thread. An exception in this thread cancels the call.

        Raises ToolFailed if the server refuses the call, ProviderUnavailable if the connection ends.
        """
        messages: queue.SimpleQueue[_Progress | None] = queue.SimpleQueue()

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            messages.put((progress, total, message))

        call_tool = partial(
            self._client.call_tool,
            tool,
            dict(arguments),
            read_timeout_seconds=timeout_s + _CLOSE_TIMEOUT_S,  # takes effect only if the tool's own time limit fails
            progress_callback=on_progress,
        )
        future = self._portal.start_task_soon(call_tool)
        future.add_done_callback(lambda _: messages.put(None))
        try:
            while (message := _next_message(messages)) is not None:
                _report_progress(report, *message)
            return future.result()
        except MCPError as error:
            if error.code in (CONNECTION_CLOSED, REQUEST_TIMEOUT):
                raise self._unavailable(error) from error
            raise ToolFailed(f"{self._name}.{tool}", error.message) from error
        finally:
            future.cancel()

    def close(self) -> None:
        """Close the connection, and stop the server if it is a child process."""
        try:
            self._stack.close()
        except Exception as error:  # noqa: BLE001 - the connection is gone either way; any transport error is logged
            log.warning("mcp.close_failed", extra={"server": self._name, "error": _describe_error(error)})

    async def _list_all_tools(self) -> list[Tool]:
        tools: list[Tool] = []
        cursors: list[str | None] = [None]
        while len(cursors) <= _MAX_PAGES:
            page = await self._client.list_tools(cursor=cursors[-1], cache_mode="bypass")
            tools += page.tools
            if page.next_cursor is None or page.next_cursor in cursors:
                break
            cursors.append(page.next_cursor)
        return tools

    def _unavailable(self, error: Exception) -> ProviderUnavailable:
        return ProviderUnavailable(f"the MCP server {self._name!r}", _describe_error(error))


def _transport(settings: ServerSettings) -> Transport:
    if settings.url is not None:
        return _over_http(settings.url, settings.headers)
    parameters = StdioServerParameters(
        command=settings.command or "",
        args=list(settings.args),
        env=dict(settings.env),
        cwd=settings.cwd,
        encoding_error_handler="replace",
    )
    return stdio_client(parameters, errlog=_error_log())


@asynccontextmanager
async def _repaired(
    name: str, transport: Transport, schemas: dict[str, Mapping[str, Any]], reported: set[str]
) -> AsyncIterator[TransportStreams]:
    async with transport as (messages, requests):
        yield RepairedMessages(name, messages, schemas, reported), requests


@asynccontextmanager
async def _over_http(url: str, headers: Mapping[str, str]) -> AsyncIterator[TransportStreams]:
    async with AsyncExitStack() as stack:
        options: dict[str, Any] = {"timeout": _HTTP_TIMEOUTS, "event_hooks": {"response": [limit_response]}}
        client = httpx2.AsyncClient(headers={**REQUEST_HEADERS, **headers}, **options)
        await stack.enter_async_context(client)
        transport: AbstractAsyncContextManager[TransportStreams] = streamable_http_client(url, http_client=client)
        yield await stack.enter_async_context(transport)


def _error_log() -> TextIO:
    # Celery replaces sys.stderr by a logger, which has no file descriptor for a child process.
    return sys.__stderr__ or Path(os.devnull).open("w", encoding="utf-8")


def _next_message(messages: queue.SimpleQueue[_Progress | None]) -> _Progress | None:
    # With short timeouts, because a time limit cannot interrupt a long wait in a thread other than the main one.
    while True:
        try:
            return messages.get(timeout=_POLL_INTERVAL_S)
        except queue.Empty:
            continue


def _report_progress(
    report: Callable[[float, str], None], progress: float, total: float | None, message: str | None
) -> None:
    if total:  # without a total there is no percentage
        report(min(100.0, max(0.0, 100 * progress / total)), message or "")


def _describe_error(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error_text(error).rstrip(".")
