"""A connection to one MCP server: by a process of its own that is started here, or over HTTP.

The protocol's client is a coroutine's; its loop runs in a thread beside the one that calls.
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
from typing import TYPE_CHECKING, Any, Self, TextIO

import httpx2
from anyio.from_thread import start_blocking_portal
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CONNECTION_CLOSED, REQUEST_TIMEOUT, CallToolResult, Tool

from petiole.events.errors import ProviderUnavailable, ToolFailed
from petiole.workers.tools.mcp.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mcp.client._transport import Transport, TransportStreams

SERVER_START_TIMEOUT_S = 30.0
"""How long a server may take to start, and to tell its tools."""

_HTTP_TIMEOUTS = httpx2.Timeout(SERVER_START_TIMEOUT_S, read=300.0)
"""A server may hold a stream of events open for longer than it may take to connect; a call has its own limit."""

_CLOSE_TIMEOUT_S = 1.0
_POLL_INTERVAL_S = 0.1
_MAX_PAGES = 100

log = logging.getLogger(__name__)


class McpConnection:
    """One server, connected; of the process that opened it, any thread of it. Raises: ProviderUnavailable."""

    def __init__(self, name: str, settings: ServerSettings) -> None:
        self._name = name
        self._stack = ExitStack()
        try:
            self._portal = self._stack.enter_context(start_blocking_portal(name=f"petiole-mcp-{name}"))
            client = Client(_transport(settings), read_timeout_seconds=SERVER_START_TIMEOUT_S)
            self._client = self._stack.enter_context(self._portal.wrap_async_context_manager(client))
        except BaseException as error:
            # Whatever ends the opening, a time limit too: no process and no thread stays behind.
            self._stack.__exit__(type(error), error, error.__traceback__)
            if not isinstance(error, Exception):
                raise
            raise self._unavailable(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tools(self) -> Sequence[Tool]:
        """Ask for the server's tools; it answers only where it is there."""
        try:
            return self._portal.call(self._list_all_tools)
        except Exception as error:
            raise self._unavailable(error) from error

    def call(
        self, tool: str, arguments: Mapping[str, Any], *, timeout_s: float, report: Callable[[float, str], None]
    ) -> CallToolResult:
        """Call a tool, and report its progress in this thread. Leaving early tells the server to stop.

        Raises also: ToolFailed where the server refuses the call.
        """
        heard: queue.SimpleQueue[tuple[float, float | None, str | None] | None] = queue.SimpleQueue()

        async def hear(progress: float, total: float | None, message: str | None) -> None:
            heard.put((progress, total, message))

        act = partial(
            self._client.call_tool,
            tool,
            dict(arguments),
            read_timeout_seconds=timeout_s + _CLOSE_TIMEOUT_S,  # a second line behind the tool's own time limit
            progress_callback=hear,
        )
        future = self._portal.start_task_soon(act)
        future.add_done_callback(lambda _: heard.put(None))
        try:
            while (said := _next_message(heard)) is not None:
                _report_progress(report, *said)
            return future.result()
        except MCPError as error:
            if error.code in (CONNECTION_CLOSED, REQUEST_TIMEOUT):
                raise self._unavailable(error) from error
            raise ToolFailed(f"{self._name}.{tool}", error.message) from error
        finally:
            future.cancel()

    def close(self) -> None:
        """End the connection, and the server's process where it is ours."""
        try:
            self._stack.close()
        except Exception as error:  # noqa: BLE001 - it is over either way, and whatever a transport raises is told
            log.warning("mcp.close_failed", extra={"server": self._name, "error": _describe_error(error)})

    async def _list_all_tools(self) -> list[Tool]:
        found: list[Tool] = []
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            page = await self._client.list_tools(cursor=cursor, cache_mode="bypass")
            found += page.tools
            cursor = page.next_cursor
            if cursor is None:
                break
        return found

    def _unavailable(self, error: Exception) -> ProviderUnavailable:
        return ProviderUnavailable(f"the MCP server {self._name!r}", _describe_error(error))


def _transport(settings: ServerSettings) -> Transport:
    if settings.url is not None:
        return _over_http(settings.url, settings.headers)
    parameters = StdioServerParameters(
        command=settings.command or "", args=list(settings.args), env=dict(settings.env), cwd=settings.cwd
    )
    return stdio_client(parameters, errlog=_error_log())


@asynccontextmanager
async def _over_http(url: str, headers: Mapping[str, str]) -> AsyncIterator[TransportStreams]:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx2.AsyncClient(headers=dict(headers), timeout=_HTTP_TIMEOUTS))
        transport: AbstractAsyncContextManager[TransportStreams] = streamable_http_client(url, http_client=client)
        yield await stack.enter_async_context(transport)


def _error_log() -> TextIO:
    # Celery puts a logger in the place of sys.stderr, which is no file that a process could be given.
    return sys.__stderr__ or Path(os.devnull).open("w", encoding="utf-8")


def _next_message(heard: queue.SimpleQueue[Any]) -> tuple[float, float | None, str | None] | None:
    # In slices: on other threads than the main one, a time limit ends nothing that waits for longer.
    while True:
        try:
            said: tuple[float, float | None, str | None] | None = heard.get(timeout=_POLL_INTERVAL_S)
        except queue.Empty:
            continue
        return said


def _report_progress(
    report: Callable[[float, str], None], progress: float, total: float | None, message: str | None
) -> None:
    if total:  # without it, nobody knows how far it is
        report(min(100.0, max(0.0, 100 * progress / total)), message or "")


def _describe_error(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{error}".rstrip(".") or type(error).__name__
