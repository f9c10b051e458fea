"""Servers: the tools of MCP servers (Model Context Protocol), under `<server>.<tool>`.

settings.py     which servers there are: a file in the common `mcpServers` shape     PETIOLE_MCP_SERVERS
source.py       a server's tools, as the registry asks for them
connection.py   one server, connected; needs the extra `mcp`, and is imported when the first server is needed
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from petiole.events.errors import missing_extra
from petiole.workers.settings import WorkerSettings
from petiole.workers.tools.mcp.settings import read_servers
from petiole.workers.tools.mcp.tool_source import McpServer


def configured_servers() -> Iterator[McpServer]:
    """Make a source of each server that PETIOLE_MCP_SERVERS tells of; none is started.

    Raises: NotConfigured, UsageError (missing_extra).
    """
    if path := WorkerSettings().mcp_servers:
        if find_spec("mcp") is None:
            raise missing_extra("a server of tools (PETIOLE_MCP_SERVERS)", "mcp")
        for name, settings in read_servers(path).items():
            yield McpServer(name, settings)
