"""Recall: what was said before in this conversation."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field

from petiole.events.catalog.memory import MemoryItem
from petiole.events.content import Value
from petiole.workers.tools.registry import tool
from petiole.workers.tools.tool import ToolContext, ToolOutput

Speaker: TypeAlias = Literal["user", "assistant", "anyone"]

# A tool's result is remembered with the question it answered, so it tells what the user asked.
_ROLES: Final[dict[Speaker, frozenset[str]]] = {
    "user": frozenset({"user", "tool"}),
    "assistant": frozenset({"assistant"}),
    "anyone": frozenset({"user", "assistant", "tool"}),
}

_MAX_CANDIDATES = 50


@tool
def recall(
    context: ToolContext,
    about: Annotated[str, Field(max_length=500, description="words to look for; none for what was said last")] = "",
    said_by: Annotated[Speaker, Field(description="whose words are wanted")] = "anyone",
    limit: Annotated[int, Field(ge=1, le=20)] = 2,
) -> ToolOutput:
    """Look up what was said earlier in this conversation, best match first."""
    found = [each for each in context.recall(about, _MAX_CANDIDATES) if each.role in _ROLES[said_by]][:limit]
    return ToolOutput([_recollection_value(each) for each in found], _results_text(found, about))


def _recollection_value(recollection: MemoryItem) -> dict[str, Value]:
    return {
        "role": recollection.role,
        "text": recollection.text,
        "said_at": recollection.said_at.isoformat(),
        "score": recollection.score,
    }


def _results_text(recollections: list[MemoryItem], about: str) -> str:
    if not recollections:
        return f'I remember nothing about "{about}"' if about else "I remember nothing yet"
    return f"I remember that {'; and that '.join(_quote(each) for each in recollections)}"


def _quote(recollection: MemoryItem) -> str:
    match recollection.role:
        case "user":
            return f'you said: "{recollection.text}"'
        case "assistant":
            return f'I said: "{recollection.text}"'
        case "tool":
            return recollection.text
