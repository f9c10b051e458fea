"""Tools, one file each. To add one, write a function with `@tool` in a file here: it is found by itself."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from workers.tools.registry import Finding, Tool, ToolContext, ToolRegistry, tool, tools

__all__ = ["Finding", "Tool", "ToolContext", "ToolRegistry", "installed_tools", "tool"]


@cache
def installed_tools() -> ToolRegistry:
    """Import every file of this folder once, and give the tools they hold."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(module.name)
    return tools
