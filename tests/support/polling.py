"""Wait for what will happen, never for time to pass."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], timeout_s: float, explain: Callable[[], object] = lambda: "") -> None:
    """Wait for a condition; fails with the explanation after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"did not happen within {timeout_s} s: {explain()}"
        time.sleep(0.02)
