"""Wait for what will happen, never for time to pass."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 3
"""How many times as long as on an idle machine to wait: a test must not fail because the machine is busy."""


def wait_until(condition: Callable[[], bool], timeout_s: float, explain: Callable[[], object] = lambda: "") -> None:
    """Wait for a condition that an idle machine meets within `timeout_s`; fails with the explanation."""
    deadline = time.monotonic() + PATIENCE * timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"did not happen within {PATIENCE * timeout_s} s: {explain()}"
        time.sleep(0.02)
