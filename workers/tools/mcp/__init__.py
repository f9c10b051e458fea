"""The tools of MCP servers (Model Context Protocol), named `<server>.<tool>`. Entered by `configured_servers()`.

settings.py      reads the file of servers that PETIOLE_MCP_SERVERS names
tool_source.py   a server's tools, for the registry
connection.py    the connection to one server; needs the extra `mcp` and is imported when the first server is used
repair.py        what servers send, made readable for the client library
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from petiole.events.errors import missing_extra
from petiole.workers.settings import WorkerSettings
from petiole.workers.tools.mcp.settings import read_servers
from petiole.workers.tools.mcp.tool_source import McpToolSource


def configured_servers() -> Iterator[McpToolSource]:
    """Create a tool source for each server in the file PETIOLE_MCP_SERVERS. Starts no server.

    Raises: NotConfigured, UsageError (missing_extra).
    """
    if path := WorkerSettings().mcp_servers:
        if find_spec("mcp") is None:
            raise missing_extra("an MCP server (PETIOLE_MCP_SERVERS)", "mcp")
        for name, settings in read_servers(path).items():
            yield McpToolSource(name, settings)
