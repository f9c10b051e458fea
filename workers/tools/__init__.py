"""Tools, one file each. To add one, write a function with `@tool` in a file of this folder, which is imported at start.

PETIOLE_TOOLS names modules with your own tools, separated by commas. PETIOLE_MCP_SERVERS names a file of MCP servers.

    tool.py         the tool and its call               function_tools.py    a typed function as a tool
    registry.py     tools by name                       tool_policy.py       time limit, approval, circuit breaker
    tool_calls.py   the events of a call                approvals.py         approvals of calls
    mcp/            the tools of MCP servers
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from petiole.events.errors import NotConfigured
from petiole.workers.settings import WorkerSettings
from petiole.workers.tools.mcp import configured_servers
from petiole.workers.tools.registry import ToolRegistry, ToolSource, tool, tools
from petiole.workers.tools.tool import Tool, ToolContext, ToolOutput

__all__ = ["Tool", "ToolContext", "ToolOutput", "ToolRegistry", "ToolSource", "installed_tools", "tool"]


@cache
def installed_tools() -> ToolRegistry:
    """Import this folder's files and the modules of PETIOLE_TOOLS once, add MCP servers, and return all tools.

    Raises:
        NotConfigured: A module of PETIOLE_TOOLS does not exist, or the file of MCP servers cannot be read.
        UsageError: MCP servers need an extra that is not installed (missing_extra).
    """
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(module.name)
    for name in WorkerSettings().tools:
        _import_tools(name)
    for server in configured_servers():
        tools.add_source(server)
    return tools


def _import_tools(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        # The module exists, but one of its own imports does not: raise the original error.
        if error.name is None or not name.startswith(error.name):
            raise
        raise NotConfigured(f"the tools {name!r}", "the module does not exist; check PETIOLE_TOOLS") from error
