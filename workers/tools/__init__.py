"""Tools, one file each. To add one, write a function with `@tool` in a file here: it is found by itself.

PETIOLE_TOOLS names modules with tools of your own, separated by commas; PETIOLE_MCP_SERVERS a file with servers.

    registry.py     tools by name                       functions.py    a typed function as a tool
    tool.py         what a tool is, and a call of it    terms.py        its time limit, approval, guard
    servers/        the tools of MCP servers
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from petiole.events.errors import NotConfigured
from petiole.workers.settings import WorkerSettings
from petiole.workers.tools.mcp import configured_servers
from petiole.workers.tools.registry import ToolRegistry, ToolSource, tool, tools
from petiole.workers.tools.tool import Finding, Tool, ToolContext

__all__ = ["Finding", "Tool", "ToolContext", "ToolRegistry", "ToolSource", "installed_tools", "tool"]


@cache
def installed_tools() -> ToolRegistry:
    """Import every file of this folder and what PETIOLE_TOOLS names once, and give the tools they hold.

    Raises: NotConfigured for a module that is not there, or a file of servers that cannot be read; UsageError
    (missing_extra).
    """
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(module.name)
    for name in WorkerSettings().tools:
        _import(name)
    for server in configured_servers():
        tools.add_source(server)
    return tools


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A module that exists but lacks one of its own imports is that module's matter, and says so itself.
        if error.name is None or not name.startswith(error.name):
            raise
        raise NotConfigured(f"the tools {name!r}", "there is no such module; check PETIOLE_TOOLS") from error
