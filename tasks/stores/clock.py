"""Clock: the server's, for what goes by time in the stores; in the harness, with what was skipped of it."""

from __future__ import annotations

import asyncio
import time


class Clock:
    """How far ahead of the server's clock the stores' time is: not at all, but in a harness that skips time."""

    def __init__(self) -> None:
        self.is_virtual = False
        self.ahead_ms = 0

    def skip(self, seconds: float) -> None:
        """Let so much time have passed."""
        self.ahead_ms += int(seconds * 1_000) + 1

    def sleep(self, seconds: float) -> None:
        """Wait so long, or skip it where time is virtual."""
        if self.is_virtual:
            self.skip(seconds)
        else:
            time.sleep(seconds)

    async def sleep_async(self, seconds: float) -> None:
        """Wait as `sleep` does, and let the loop go on."""
        if self.is_virtual:
            self.skip(seconds)
        else:
            await asyncio.sleep(seconds)
