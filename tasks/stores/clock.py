"""Clock: how far the stores' time is ahead of the server's, so that the test harness can skip time."""

from __future__ import annotations

import asyncio
import time


class Clock:
    """Offset to the server's clock in ms: 0 outside of a test harness."""

    def __init__(self) -> None:
        self.is_virtual = False
        self.ahead_ms = 0

    def skip(self, seconds: float) -> None:
        """Move the stores' time ahead."""
        self.ahead_ms += int(seconds * 1_000) + 1

    def sleep(self, seconds: float) -> None:
        """Sleep, or skip the time if the clock is virtual."""
        if self.is_virtual:
            self.skip(seconds)
        else:
            time.sleep(seconds)

    async def sleep_async(self, seconds: float) -> None:
        """Sleep as `sleep` does, without blocking the event loop."""
        if self.is_virtual:
            self.skip(seconds)
        else:
            await asyncio.sleep(seconds)
