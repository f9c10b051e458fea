"""A real MCP server for tests: over its standard input and output, or with a port over HTTP."""

from __future__ import annotations

import asyncio
import os
import sys

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("test-tools")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
async def steps(number: int, context: Context, wait_s: float = 0) -> str:
    """Take some steps, and tell of each."""
    for step in range(1, number + 1):
        await context.report_progress(step, number, f"step {step}")
        await asyncio.sleep(wait_s)
    return f"{number} steps"


@server.tool()
def broken() -> str:
    """Fail."""
    raise ToolError("out of order")


@server.tool()
def die() -> str:
    """End the server in the middle of a call."""
    os._exit(3)


@server.tool()
def processes() -> list[int]:
    """Tell the server's process and its parent's."""
    return [os.getpid(), os.getppid()]


@server.tool()
def secret() -> str:
    """Tell what the environment holds."""
    return os.environ.get("A_SECRET", "")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else:
        server.run()
