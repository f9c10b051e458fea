"""The operator: who runs this process, as audit events name them."""

from __future__ import annotations

import getpass
import os
import socket


def current_operator() -> str:
    """Name who runs this process: user@host."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        # In a container, a user may have a number only.
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"
