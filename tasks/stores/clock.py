"""Clocks: the server's, and how far the stores' time is ahead of it, so that the test harness can skip time."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime

from redis import Redis
from redis.exceptions import RedisError

from petiole.events import clock as event_clock

log = logging.getLogger(__name__)


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


REFRESH_S = 10.0
"""How long a reading of the server's clock is relied on."""

_MAX_JUMP_S = 0.1


class ServerClock:
    """The clock of the state store, which decides for all processes what is due.

    The time goes on from the last reading by this process's monotonic clock, so its own wall clock may be wrong, and
    may be set. After a jump of the wall clock the server is asked again: that of a suspended machine jumps, too. Events
    get their timestamps by the same clock (events/clock.py).
    """

    def __init__(self, client: Redis, clock: Clock | None = None) -> None:
        self._client = client
        self._clock = clock or Clock()
        self._ahead_s = 0.0
        self._was_read = False
        self._read_at = float("-inf")
        self._wall_ahead_s = 0.0

    def now(self) -> datetime:
        """Return the server's time; without an answer, by the last reading, or by this process's clock."""
        return datetime.fromtimestamp(self.time_s(), UTC)

    def time_s(self) -> float:
        """Return `now` in seconds since 1970."""
        if not self.is_fresh():
            self._read()
        return time.monotonic() + self._ahead_s + self._clock.ahead_ms / 1_000

    def is_fresh(self) -> bool:
        """Return whether `now` will not ask the server."""
        has_jumped = abs(time.time() - time.monotonic() - self._wall_ahead_s) > _MAX_JUMP_S
        return time.monotonic() - self._read_at < REFRESH_S and not has_jumped

    def _read(self) -> None:
        self._wall_ahead_s = time.time() - time.monotonic()
        try:
            seconds, microseconds = self._client.time()
        except RedisError as error:
            log.warning("server_clock.not_read", extra={"reason": str(error)})
            if not self._was_read:
                self._ahead_s = self._wall_ahead_s
        else:
            self._was_read = True
            self._ahead_s = seconds + microseconds / 1_000_000 - time.monotonic()
            event_clock.correct(self._ahead_s - self._wall_ahead_s)
        self._read_at = time.monotonic()
