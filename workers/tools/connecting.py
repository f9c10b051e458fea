"""Connect to the tool sources when a process starts, so that the first message does not wait for MCP servers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from petiole.events.errors import PetioleError
from petiole.events.texts import error_text
from petiole.workers.tools import ToolRegistry, installed_tools

log = logging.getLogger(__name__)

_MAX_WAIT_S: Final = 30.0
"""Less than the time that a process of the prefork pool has to start (tasks/celery.py)."""


def connect_tool_sources(connect: Callable[[ToolRegistry], object]) -> None:
    """Import the tools and connect to their sources. A source that needs longer goes on connecting in the background.

    Args:
        connect: `ToolRegistry.connect` in a process that calls tools, `ToolRegistry.all` in one that only lists them.

    Raises NotConfigured, UsageError (missing_extra), and any error of the modules. A source that cannot be reached is
    logged, and tried again when its tools are needed.
    """
    registry = installed_tools()

    def run() -> None:
        try:
            connect(registry)
        except PetioleError as error:
            log.warning("tools.connect_failed", extra={"error": error_text(error)})

    thread = threading.Thread(target=run, name="petiole-connect-tools", daemon=True)
    thread.start()
    thread.join(_MAX_WAIT_S)
