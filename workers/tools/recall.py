"""Recall: what was said before in this conversation."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field

from petiole.events.catalog.memory import Recollection
from petiole.events.content import Value
from petiole.workers.tools.registry import tool
from petiole.workers.tools.tool import Finding, ToolContext

Speaker: TypeAlias = Literal["user", "assistant", "anyone"]

# A tool's result is remembered with the question it answered, so it tells what the user asked.
_ROLES: Final[dict[Speaker, frozenset[str]]] = {
    "user": frozenset({"user", "tool"}),
    "assistant": frozenset({"assistant"}),
    "anyone": frozenset({"user", "assistant", "tool"}),
}

_LOOKED_AT = 50


@tool
def recall(
    context: ToolContext,
    about: Annotated[str, Field(max_length=500, description="words to look for; none for what was said last")] = "",
    said_by: Annotated[Speaker, Field(description="whose words are wanted")] = "anyone",
    limit: Annotated[int, Field(ge=1, le=20)] = 2,
) -> Finding:
    """Look up what was said earlier in this conversation, best match first."""
    found = [each for each in context.recall(about, _LOOKED_AT) if each.role in _ROLES[said_by]][:limit]
    return Finding([_as_value(each) for each in found], _in_words(found, about))


def _as_value(recollection: Recollection) -> dict[str, Value]:
    return {
        "role": recollection.role,
        "text": recollection.text,
        "said_at": recollection.said_at.isoformat(),
        "score": recollection.score,
    }


def _in_words(found: list[Recollection], about: str) -> str:
    if not found:
        return f'I remember nothing about "{about}"' if about else "I remember nothing yet"
    return f"I remember that {'; and that '.join(_quote(each) for each in found)}"


def _quote(recollection: Recollection) -> str:
    match recollection.role:
        case "user":
            return f'you said: "{recollection.text}"'
        case "assistant":
            return f'I said: "{recollection.text}"'
        case "tool":
            return recollection.text
