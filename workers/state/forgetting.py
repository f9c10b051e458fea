"""Forgetting: delete facts and messages of a user, or of a stream without a known user, from the stores of the team.

The history of events is not changed: it keeps messages for PETIOLE_HISTORY_RETENTION_S, like any other event.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from petiole.events.catalog.memory import Forgotten, MemoryItem
from petiole.workers.retrieval.forget_requests import ForgetRequest, select_forgotten
from petiole.workers.state import TeamState


@dataclass(frozen=True, slots=True)
class MemoryOwner:
    """The user whose memory it is, in all streams; or a stream whose user is not known."""

    user_id: str | None
    stream_id: str

    @property
    def key(self) -> str:
        """The owner of the facts."""
        return f"stream:{self.stream_id}" if self.user_id is None else f"user:{self.user_id}"


def forget(state: TeamState, owner: MemoryOwner, request: ForgetRequest, until: datetime) -> Forgotten:
    """Delete what a request names, from before this time. Safe to repeat."""
    values = [values for values in state.facts.read(owner.key) if values[-1].said_at <= until]
    facts = [fact for all_values in values for fact in all_values]
    memories = _read_memories(state, owner, request, until)
    of_owner = {key: memory for of_stream in memories.values() for key, memory in of_stream.items()}
    selection = select_forgotten(request, facts, of_owner)
    keys = selection.fact_keys | ({""} if request.is_everything else set())
    count = state.facts.forget(owner.key, keys, until)
    for stream_id, of_stream in memories.items():
        state.memories.forget(stream_id, {key: of_stream[key] for key in selection.memory_keys & of_stream.keys()})
    texts = [of_owner[key].text for key in selection.memory_keys]
    state.vectors.delete([*texts, *(fact.text for fact in facts if fact.key in selection.fact_keys)])
    return Forgotten(facts=count, messages=len(selection.memory_keys))


def _read_memories(
    state: TeamState, owner: MemoryOwner, request: ForgetRequest, until: datetime
) -> dict[str, dict[str, MemoryItem]]:
    is_local = owner.user_id is None or request.is_last
    stream_ids = [owner.stream_id] if owner.user_id is None or is_local else state.memories.list_streams(owner.user_id)
    return {
        stream_id: {
            key: memory
            for key, memory in state.memories.read_by_key(stream_id).items()
            if memory.said_by == owner.user_id and memory.said_at <= until
        }
        for stream_id in stream_ids
    }
