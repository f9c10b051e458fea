"""Replays that were started in the console: each runs in a thread of its own, and its page shows how far it is.

A replay survives the console: what was sent is at the broker, and each letter has its state. Only the page is lost.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from petiole.events.errors import PetioleError, UsageError
from petiole.events.texts import error_text
from petiole.tasks import dead_letters
from petiole.tasks.dead_letters import DeadLetterQuery, DeadLetterReplay, Progress

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

MAX_RUNNING: Final = 4
MAX_KEPT: Final = 50


@dataclass(slots=True)
class ReplayRun:
    """A replay: what was asked for, how many letters were sent, and its report once it has ended."""

    id: str
    operator: str
    total: int
    canary: int
    rate_hz: float | None
    sent: int = 0
    report: DeadLetterReplay | None = None
    error: str = ""

    @property
    def is_running(self) -> bool:
        """Whether letters may still be sent."""
        return self.report is None and not self.error


class Replays:
    """The last MAX_KEPT replays of this process, at most MAX_RUNNING at once."""

    def __init__(self, bus: BusRuntime) -> None:
        self._bus = bus
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, ReplayRun] = OrderedDict()

    def start(
        self, ids: list[str], *, operator: str, canary: int, rate_hz: float | None, timeout: timedelta
    ) -> ReplayRun:
        """Start to replay letters. Raises UsageError while too many replays run."""
        run = ReplayRun(uuid4().hex, operator, len(ids), canary, rate_hz)
        with self._lock:
            if sum(each.is_running for each in self._runs.values()) >= MAX_RUNNING:
                raise UsageError(f"{MAX_RUNNING} replays run already; wait until one has ended")
            self._runs[run.id] = run
            while len(self._runs) > MAX_KEPT:
                self._runs.popitem(last=False)
        thread = threading.Thread(target=self._run, args=(run, ids, timeout), name="console-replay", daemon=True)
        thread.start()
        return run

    def get(self, run_id: str) -> ReplayRun | None:
        """Find a replay of this process."""
        return self._runs.get(run_id)

    def progress(self, run: ReplayRun) -> Progress | None:
        """Count the outcomes so far; None before anything was sent."""
        sent = run.report.sent if run.report else []
        return dead_letters.read_progress(sent, bus=self._bus) if sent else None

    def _run(self, run: ReplayRun, ids: list[str], timeout: timedelta) -> None:
        def count(batch: int, _: int) -> None:
            run.sent += batch

        try:
            run.report = dead_letters.replay(
                DeadLetterQuery(ids=tuple(ids)),
                rate_hz=run.rate_hz,
                canary=run.canary,
                timeout=timeout,
                operator=run.operator,
                on_sent=count,
                bus=self._bus,
            )
        except (PetioleError, RedisError, OperationalError) as error:
            run.error = error_text(error)
