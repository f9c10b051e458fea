"""Session errors: how those who ask for a session are told that there is none to be had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from petiole.events.errors import BrokerUnavailable, SessionEnded, UnknownSession
from petiole.tasks.stores.sessions import SessionFacts


def over(session_id: str, facts: SessionFacts | None) -> SessionEnded | UnknownSession:
    """Word that a session has ended, or is forgotten since then."""
    if facts is None:
        return UnknownSession(session_id)
    return SessionEnded(session_id, f"{facts.ended_at:%Y-%m-%dT%H:%M:%SZ}", str(facts.end_reason))


@contextmanager
def reaching(session_id: str) -> Iterator[None]:
    """Say by our own error that the store did not answer. Raises BrokerUnavailable."""
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError) as error:
        raise BrokerUnavailable(f"asking for the session {session_id!r}") from error
