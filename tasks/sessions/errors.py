"""Errors for sessions that have ended or do not exist."""

from __future__ import annotations

from petiole.events.errors import SessionEnded, UsageError, unknown_session
from petiole.tasks.stores.sessions import SessionInfo


def session_ended_error(session_id: str, info: SessionInfo | None) -> SessionEnded | UsageError:
    """Build the error for a session that has ended, or that was deleted since (`info` is None)."""
    if info is None:
        return unknown_session(session_id)
    return SessionEnded(session_id, f"{info.ended_at:%Y-%m-%dT%H:%M:%SZ}", str(info.end_reason))


def lookup_operation(session_id: str) -> str:
    """Name the operation in the error of a state store that does not answer."""
    return f"accessing the session {session_id!r}"
