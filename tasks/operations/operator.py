"""Operator: the user of this process, for audit events."""

from __future__ import annotations

import getpass
import os
import socket


def current_operator() -> str:
    """Return the user of this process as user@host."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        # A container's user may have no name.
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"
