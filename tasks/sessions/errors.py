"""Session errors: how those who ask for a session are told that there is none to be had."""

from __future__ import annotations

from petiole.events.errors import SessionEnded, UsageError, unknown_session
from petiole.tasks.stores.sessions import SessionFacts


def over(session_id: str, facts: SessionFacts | None) -> SessionEnded | UsageError:
    """Word that a session has ended, or is forgotten since then."""
    if facts is None:
        return unknown_session(session_id)
    return SessionEnded(session_id, f"{facts.ended_at:%Y-%m-%dT%H:%M:%SZ}", str(facts.end_reason))


def asking_for(session_id: str) -> str:
    """Say in an error what was being done when the state store did not answer."""
    return f"asking for the session {session_id!r}"
