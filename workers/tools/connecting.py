"""Connect to the tool sources when a process starts, so that the first message does not wait for MCP servers."""

from __future__ import annotations

import logging
import threading
from typing import Final

from billiard import current_process

from petiole.events.errors import PetioleError
from petiole.events.texts import error_text
from petiole.workers.tools import installed_tools

log = logging.getLogger(__name__)

_MAX_WAIT_S: Final = 30.0
_MAX_WAIT_IN_CHILD_S: Final = 2.0
"""In the prefork pool: Celery kills a child process that takes 4 s to start."""


def connect_tool_sources() -> None:
    """Import the tools and connect to their sources. A source that needs longer goes on connecting in the background.

    Raises NotConfigured, UsageError (missing_extra), and any error of the modules. A source that cannot be reached is
    logged, and tried again when its tools are needed.
    """
    registry = installed_tools()

    def connect() -> None:
        try:
            registry.all()
        except PetioleError as error:
            log.warning("tools.connect_failed", extra={"error": error_text(error)})

    thread = threading.Thread(target=connect, name="petiole-connect-tools", daemon=True)
    thread.start()
    is_child = current_process().name != "MainProcess"
    thread.join(_MAX_WAIT_IN_CHILD_S if is_child else _MAX_WAIT_S)
