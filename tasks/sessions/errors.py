"""Session errors: how those who ask for a session are told that there is none to be had."""

from __future__ import annotations

from petiole.events.errors import SessionEnded, UsageError, unknown_session
from petiole.tasks.stores.sessions import SessionInfo


def session_ended_error(session_id: str, info: SessionInfo | None) -> SessionEnded | UsageError:
    """Word that a session has ended, or is forgotten since then."""
    if info is None:
        return unknown_session(session_id)
    return SessionEnded(session_id, f"{info.ended_at:%Y-%m-%dT%H:%M:%SZ}", str(info.end_reason))


def lookup_operation(session_id: str) -> str:
    """Say in an error what was being done when the state store did not answer."""
    return f"asking for the session {session_id!r}"
