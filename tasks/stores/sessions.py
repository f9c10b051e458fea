"""Sessions: participants, state, last events and working memory of a conversation.

Promise: concurrent first events create one session. Its state changes only as TRANSITIONS allows, and it stays listed
until its end is published. Buffer and memory stay within their limits, change completely or not at all, and are deleted
in the step that ends the session.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field
from redis import Redis

from petiole.events.event import UtcDatetime
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.scripts import load_script

SESSION_RETENTION = timedelta(days=30)
"""How long a session is kept after its last activity or its end."""

PAGE_SIZE = 500
"""How many sessions are read in one round trip."""

SessionType: TypeAlias = Literal["chat", "meeting", "call"]
SessionState: TypeAlias = Literal["new", "active", "idle", "ended"]
EndReason: TypeAlias = Literal["closed", "idle", "failed"]

TRANSITIONS: Final[Mapping[SessionState, tuple[SessionState, ...]]] = {
    "new": ("active", "ended"),
    "active": ("idle", "ended"),
    "idle": ("active", "ended"),
    "ended": (),
}
"""States that may follow each state."""

_PARTICIPANT = "participant:"


class Participant(BaseModel):
    """A user, agent or observer of a session."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(min_length=1, max_length=255)]
    role: Literal["user", "agent", "observer"] = "user"
    name: Annotated[str, Field(min_length=1, max_length=255)] | None = None


class SessionInfo(BaseModel):
    """A session as read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    session_id: Annotated[str, Field(min_length=1, max_length=255)]
    session_type: SessionType = "chat"
    state: SessionState
    participants: tuple[Participant, ...] = ()
    created_at: UtcDatetime
    last_activity: UtcDatetime
    ended_at: UtcDatetime | None = None
    end_reason: EndReason | None = None


class Sessions:
    """Sessions by id, which is the id of their stream."""

    def __init__(
        self, client: Redis, keys: Keys, *, buffer_length: int, memory_bytes: int, age: timedelta = SESSION_RETENTION
    ) -> None:
        self._client = client
        self._keys = keys
        self._buffer_length = buffer_length
        self._memory_bytes = memory_bytes
        self._age_ms = int(age.total_seconds() * 1_000)
        self._record, self._transition, self._set, self._increment, self._set_participant_script = (
            client.register_script(load_script(script))
            for script in (
                "record_session_event",
                "transition_session",
                "set_working_memory",
                "increment_working_memory",
                "set_participant",
            )
        )

    def record_event(
        self, session_id: str, kind: SessionType = "chat", event: str = "", participant: Participant | None = None
    ) -> SessionInfo:
        """Append an event (JSON) to a session's buffer; creates the session if needed.

        Without an event it only creates the session. An ended session stays unchanged.
        """
        joining = ("", "") if participant is None else (participant.id, participant.model_dump_json())
        keys = [self._keys.session(session_id), self._keys.sessions, self._keys.session_events(session_id)]
        found = self._record(keys=keys, args=[session_id, kind, event, self._buffer_length, self._age_ms, *joining])
        return _parse_session(session_id, _to_dict(found))

    def transition(
        self, session_id: str, to: SessionState, *, reason: EndReason | None = None, idle_since: datetime | None = None
    ) -> tuple[bool, SessionState | None]:
        """Change a session's state if TRANSITIONS allows it and nothing happened in it after `idle_since`.

        Returns whether this call changed it, and the state then; None if the session does not exist.
        """
        origins = [state for state, targets in TRANSITIONS.items() if to in targets]
        since = "" if idle_since is None else int(idle_since.timestamp() * 1_000)
        arguments = [session_id, to, reason or "", self._age_ms, since, *origins]
        changed, state = self._transition(keys=self._session_keys(session_id), args=arguments)
        return bool(changed), state or None

    def get(self, session_id: str) -> SessionInfo | None:
        """Read a session; None if it does not exist or has expired."""
        found: Any = self._client.hgetall(self._keys.session(session_id))
        return _parse_session(session_id, found) if "state" in found else None

    def read_many(self, session_ids: Sequence[str]) -> Iterator[SessionInfo]:
        """Read sessions that exist, in this order, a page at a time."""
        for first in range(0, len(session_ids), PAGE_SIZE):
            page = session_ids[first : first + PAGE_SIZE]
            with self._client.pipeline(transaction=False) as pipeline:
                for session_id in page:
                    pipeline.hgetall(self._keys.session(session_id))
                for session_id, found in zip(page, pipeline.execute(), strict=True):
                    if "state" in found:
                        yield _parse_session(session_id, found)

    def list_open(self, limit: int | None = None) -> list[str]:
        """List the sessions whose end is not published, the one idle for longest first; at most `limit`."""
        last = -1 if limit is None else limit - 1
        return [str(session_id) for session_id in self._client.zrange(self._keys.sessions, 0, last)]

    def count_open(self) -> int:
        """Count the sessions whose end is not published."""
        return int(self._client.zcard(self._keys.sessions))

    def list_idle_since(self, moment: datetime) -> list[str]:
        """List the open sessions without activity after a time, and ended ones whose end is not published."""
        return [
            str(session_id)
            for session_id in self._client.zrangebyscore(self._keys.sessions, 0, moment.timestamp() * 1_000)
        ]

    def now(self) -> datetime:
        """Read the server's clock, which all times of sessions come from."""
        seconds, microseconds = self._client.time()
        return datetime.fromtimestamp(seconds + microseconds / 1e6, UTC)

    def mark_end_published(self, session_id: str) -> None:
        """Record that the end of a session was published."""
        self._client.zrem(self._keys.sessions, session_id)

    def events(self, session_id: str) -> list[str]:
        """Read the last events of a session as JSON, oldest first."""
        found: Any = self._client.lrange(self._keys.session_events(session_id), 0, -1)
        return list(found)

    def memory(self, session_id: str) -> dict[str, str]:
        """Read the working memory: name -> JSON."""
        found: Any = self._client.hgetall(self._keys.session_memory(session_id))
        return dict(found)

    def put(
        self, session_id: str, values: Mapping[str, str]
    ) -> tuple[Literal["stored", "full", "ended", "not_found"], int]:
        """Store values (JSON; '' removes) in the working memory, all or none; returns its size in bytes."""
        outcome, size = self._set(
            keys=self._memory_keys(session_id), args=self._participant_arguments(session_id, *chain(*values.items()))
        )
        return outcome, int(size)

    def count(
        self, session_id: str, name: str, by: int
    ) -> tuple[Literal["stored", "full", "ended", "not_found", "not_a_number"], str]:
        """Increment an integer in the working memory; returns the new one, or the value that is not one."""
        outcome, value = self._increment(
            keys=self._memory_keys(session_id), args=self._participant_arguments(session_id, name, by)
        )
        return outcome, str(value)

    def join(self, session_id: str, participant: Participant) -> Literal["stored", "ended", "not_found"]:
        """Add a participant; an existing one stays unchanged."""
        return self._set_participant(session_id, participant.id, participant.model_dump_json())

    def leave(self, session_id: str, participant_id: str) -> Literal["stored", "ended", "not_found"]:
        """Remove a participant."""
        return self._set_participant(session_id, participant_id, "")

    def _set_participant(
        self, session_id: str, participant_id: str, participant_json: str
    ) -> Literal["stored", "ended", "not_found"]:
        name = self._keys.session(session_id)
        outcome: Any = self._set_participant_script(keys=[name], args=[participant_id, participant_json, self._age_ms])
        answer: Literal["stored", "ended", "not_found"] = outcome
        return answer

    def _participant_arguments(self, session_id: str, *participant_json: str | int) -> list[str | int]:
        return [session_id, self._memory_bytes, self._age_ms, *participant_json]

    def _memory_keys(self, session_id: str) -> list[str]:
        return [self._keys.session(session_id), self._keys.sessions, self._keys.session_memory(session_id)]

    def _session_keys(self, session_id: str) -> list[str]:
        names = self._keys
        parts = [names.session_events(session_id), names.session_memory(session_id)]
        return [names.session(session_id), names.sessions, *parts]


def _to_dict(flat: Sequence[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _parse_session(session_id: str, found: Mapping[str, str]) -> SessionInfo:
    joined = sorted(name for name in found if name.startswith(_PARTICIPANT))
    return SessionInfo.model_validate(
        {
            "session_id": session_id,
            "session_type": found["type"],
            "state": found["state"],
            "participants": tuple(Participant.model_validate_json(found[name]) for name in joined),
            "created_at": _from_milliseconds(found["created"]),
            "last_activity": _from_milliseconds(found["last"]),
            "ended_at": _from_milliseconds(found["ended"]) if "ended" in found else None,
            "end_reason": found.get("reason") or None,
        }
    )


def _from_milliseconds(milliseconds: str) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1_000, UTC)
