"""Periodic expiry of sessions without activity.

    after PETIOLE_SESSION_IDLE_TIMEOUT_S    the session becomes idle
    after PETIOLE_SESSION_END_TIMEOUT_S     it ends: its data is deleted and `input.stream.ended` is published

Several runs may overlap: the store ends a session atomically, and the event's id is derived from the session. A run
also publishes the event of a session whose process ended it and died before publishing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from petiole.tasks.periodic import PeriodicTask

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime
    from petiole.tasks.settings import Settings


@dataclass(frozen=True, slots=True)
class ExpiryResult:
    """The numbers of sessions that a run made idle and ended."""

    idle: int = 0
    ended: int = 0


class SessionExpiryTask(PeriodicTask):
    """The task that beat sends once per slot."""

    name = "petiole.session_expiry"

    def run(self, *, interval_s: float, slot: int) -> ExpiryResult:  # noqa: ARG002 - beat sends both to every periodic task
        """Expire sessions."""
        return expire_sessions(self.bus)


def sweep_interval_s(settings: Settings) -> float:
    """Return the interval of the task: a twentieth of the shorter timeout, from 0.5 s to 15 s."""
    return min(15.0, max(0.5, min(settings.session_idle_timeout_s, settings.session_end_timeout_s) / 20))


def expire_sessions(bus: BusRuntime, at: datetime | None = None) -> ExpiryResult:
    """Make sessions idle or end them by the time of their last activity.

    Raises BrokerUnavailable, QueueFull, RedisError; the next run continues with the remaining sessions.

    Args:
        bus: The bus that has the sessions.
        at: The time to compare with; by default the store's clock.
    """
    from petiole.tasks.sessions.session import publish_session_ended

    sessions, settings = bus.stores.sessions, bus.settings
    now = at or sessions.now()
    idle_since = now - timedelta(seconds=settings.session_idle_timeout_s)
    end_since = now - timedelta(seconds=settings.session_end_timeout_s)
    idle = ended = 0
    for session_id in sessions.list_idle_since(max(idle_since, end_since)):
        is_ended, state = sessions.transition(session_id, "ended", reason="idle", idle_since=end_since)
        ended += is_ended
        if state == "ended" and (info := sessions.get(session_id)):
            publish_session_ended(bus, info)
        elif state is not None:
            idle += sessions.transition(session_id, "idle", idle_since=idle_since)[0]
    return ExpiryResult(idle, ended)
