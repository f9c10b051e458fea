"""Session sweep: what beat has done of sessions in which nothing happens.

    after PETIOLE_SESSION_IDLE_TIMEOUT_S    a session is idle
    after PETIOLE_SESSION_END_TIMEOUT_S     it ends, what was kept for it is deleted; `input.stream.ended` is published

Any number of sweeps may run at once: a session ends in one step of the server, and its end is told under one id. A
sweep also tells what another one, or `end_session`, ended and died before telling.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from petiole.tasks.periodic import PeriodicTask
from petiole.tasks.sessions.session import publish_session_ended

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime
    from petiole.tasks.settings import Settings


@dataclass(frozen=True, slots=True)
class ExpiryResult:
    """How many sessions a sweep made idle, and how many it ended."""

    idle: int = 0
    ended: int = 0


class SessionExpiryTask(PeriodicTask):
    """Sweep once for each slot."""

    name = "petiole.session_expiry"

    def run(self, *, interval_s: float, slot: int) -> ExpiryResult:  # noqa: ARG002 - they name the slot that it is sent for
        """Sweep here and now."""
        return expire_sessions(self.bus)


def sweep_interval_s(settings: Settings) -> float:
    """Choose how often beat looks: a twentieth of the shorter timeout, from half a second to 15 s."""
    return min(15.0, max(0.5, min(settings.session_idle_timeout_s, settings.session_end_timeout_s) / 20))


def expire_sessions(bus: BusRuntime, at: datetime | None = None) -> ExpiryResult:
    """Let sessions be idle, and end, whose time has come; by the server's clock, unless `at` says otherwise.

    Raises BrokerUnavailable, QueueFull, RedisError: the next sweep goes on from there.
    """
    sessions, settings = bus.stores.sessions, bus.settings
    now = at or sessions.now()
    idle_since = now - timedelta(seconds=settings.session_idle_timeout_s)
    end_since = now - timedelta(seconds=settings.session_end_timeout_s)
    idle = ended = 0
    for session_id in sessions.list_idle_since(max(idle_since, end_since)):
        is_ended, state = sessions.transition(session_id, "ended", reason="idle", idle_since=end_since)
        ended += is_ended
        if state == "ended" and (facts := sessions.get(session_id)):
            publish_session_ended(bus, facts)
        elif state is not None:
            idle += sessions.transition(session_id, "idle", idle_since=idle_since)[0]
    return ExpiryResult(idle, ended)
