"""A model for tests of workers/process/model_process.py: it tells its process, and fails when asked to."""

from __future__ import annotations

import os
from collections.abc import Callable


def load_nothing() -> Callable[[bytes], bytes]:
    def respond(request: bytes) -> bytes:
        if request == b"fail":
            raise ValueError("the model broke")
        return f"{os.getpid()} {len(request)}".encode()

    return respond
