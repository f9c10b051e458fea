"""Recall: the tool that searches the memories of this conversation."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field

from petiole.events.catalog.memory import MemoryItem
from petiole.events.content import Value
from petiole.workers.tools.registry import tool
from petiole.workers.tools.tool import ToolContext, ToolOutput

Speaker: TypeAlias = Literal["user", "assistant", "anyone"]

# The memory of a tool result contains the user's question, so it also counts as the user's words.
_ROLES: Final[dict[Speaker, frozenset[str]]] = {
    "user": frozenset({"user", "tool"}),
    "assistant": frozenset({"assistant"}),
    "anyone": frozenset({"user", "assistant", "tool"}),
}

_MAX_CANDIDATES = 50


@tool(repeatable=True)
def recall(
    context: ToolContext,
    about: Annotated[str, Field(max_length=500, description="search words; empty for the latest messages")] = "",
    said_by: Annotated[Speaker, Field(description="whose messages to search")] = "anyone",
    limit: Annotated[int, Field(ge=1, le=20)] = 2,
) -> ToolOutput:
    """Look up what was said earlier in this conversation, best match first."""
    candidates = context.recall(about, _MAX_CANDIDATES)
    memories = [memory for memory in candidates if memory.role in _ROLES[said_by]][:limit]
    return ToolOutput([_memory_value(memory) for memory in memories], _results_text(memories, about))


def _memory_value(memory: MemoryItem) -> dict[str, Value]:
    return {
        "role": memory.role,
        "text": memory.text,
        "said_at": memory.said_at.isoformat(),
        "score": memory.score,
    }


def _results_text(memories: list[MemoryItem], about: str) -> str:
    if not memories:
        return f'I remember nothing about "{about}"' if about else "I remember nothing yet"
    return f"I remember that {'; and that '.join(_quote(memory) for memory in memories)}"


def _quote(memory: MemoryItem) -> str:
    match memory.role:
        case "user":
            return f'you said: "{memory.text}"'
        case "assistant":
            return f'I said: "{memory.text}"'
        case "tool":
            return memory.text
