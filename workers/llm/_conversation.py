"""The conversation in a model's prompt: the last turns as messages with their roles, the rest as background.

Names stand before messages only if several users speak in the conversation, and times only where it was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from petiole.events.catalog.orchestrator import ContextItem, ModelRequest

INTERRUPTION = timedelta(hours=6)
"""After such a break a message has its time, so that "tomorrow" of yesterday is understood."""


class ChatMessage(NamedTuple):
    """A message of the prompt."""

    role: Literal["user", "assistant"]
    content: str


def build_conversation(request: ModelRequest, message: str) -> list[ChatMessage]:
    """Build the messages of the conversation, which end with the user's message.

    Roles alternate, because many chat templates reject two messages of one role in a row: the messages of several
    users, and the results of tools, are one message.
    """
    messages: list[ChatMessage] = []
    for role, text in _parts(request, message):
        if messages and messages[-1].role == role:
            messages[-1] = ChatMessage(role, f"{messages[-1].content}\n\n{text}")
        else:
            messages.append(ChatMessage(role, text))
    return messages


def background_sections(request: ModelRequest) -> Iterator[str]:
    """Yield what is known beside the last turns: the summary, facts, memories, and what the answer has to tell."""
    if request.summary:
        yield f"Earlier in this conversation, shortened:\n{request.summary}"
    if request.facts:
        yield "\n".join(
            [f"About {request.said_by or 'the user'}, as stated:", *(f"- {fact}" for fact in request.facts)]
        )
    spoken = [item.text for item in request.turns]
    lines = [f"- {_speaker(item)}: {item.text}" for item in request.context if not _is_spoken(item.text, spoken)]
    if lines:
        yield "\n".join(["From memory:", *lines])
    if request.notes:
        yield "\n".join(["Include in your answer:", *(f"- {note}" for note in request.notes)])


def _is_spoken(text: str, spoken: Sequence[str]) -> bool:
    """Return whether a memory, which may be shortened, stands in the conversation anyway."""
    beginning = text.removesuffix("…")
    return any(each == text or (beginning != text and each.startswith(beginning)) for each in spoken)


def _parts(request: ModelRequest, message: str) -> Iterator[tuple[Literal["user", "assistant"], str]]:
    has_names = len(_users(request)) > 1
    previous: datetime | None = None
    for item in request.turns:
        role: Literal["user", "assistant"] = "assistant" if item.role == "assistant" else "user"
        time = _time_after_break(previous, item.said_at) if item.role == "user" else ""
        name = f"{item.said_by}: " if has_names and item.role == "user" and item.said_by else ""
        if item.role == "tool":
            name = f"[{item.said_at:%Y-%m-%d %H:%M} UTC] " if item.said_at else ""
        yield role, f"{time}{name}{item.text}"
        previous = item.said_at or previous
    name = f"{request.said_by}: " if has_names and request.said_by else ""
    yield "user", f"{_time_after_break(previous, request.said_at)}{name}{message}"


def _users(request: ModelRequest) -> set[str | None]:
    return {request.said_by, *(item.said_by for item in request.turns if item.role == "user")}


def _speaker(item: ContextItem) -> str:
    return item.said_by if item.role == "user" and item.said_by else item.role


def _time_after_break(previous: datetime | None, at: datetime | None) -> str:
    if previous is None or at is None or at - previous < INTERRUPTION:
        return ""
    return f"[{at:%A, %d %B %Y, %H:%M} UTC] "
