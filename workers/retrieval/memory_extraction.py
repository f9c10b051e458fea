"""Memory extraction: read memories and facts from events. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from petiole.events.catalog.input import TextMessageEvent
from petiole.events.catalog.llm import ResponseGeneratedEvent
from petiole.events.catalog.memory import Fact, MemoryItem
from petiole.events.catalog.tools import ToolResultEvent
from petiole.events.event import Event
from petiole.workers.retrieval.forget_requests import parse_forget_request
from petiole.workers.retrieval.search_text import fold_text
from petiole.workers.retrieval.statements import Statement, extract_replacement, extract_statements

# The results of these tools come from the memory.
_IGNORED_TOOLS = {"recall"}


def extract_recollection(event: Event) -> MemoryItem | None:
    """Extract the memory of an event; None if it has none."""
    match event:
        case TextMessageEvent():
            return _memory("user", event.content.text, event)
        case ResponseGeneratedEvent() if event.content.text:
            return _memory("assistant", event.content.text, event)
        case ToolResultEvent() if event.content.ok and event.content.tool not in _IGNORED_TOOLS:
            return _memory("tool", f"the tool {event.content.tool} found: {_result_text(event)}", event)
    return None


def extract_facts(event: Event, known: Sequence[Fact] = ()) -> Iterator[Fact]:
    """Extract what a user states about itself. The result of a tool is no fact: it is true when it is read.

    Args:
        event: The event.
        known: The current facts of the user, which tell what "it's Eve, not Ada" corrects.
    """
    if not isinstance(event, TextMessageEvent) or parse_forget_request(event.content.text):
        return
    statements = extract_statements(event.content.text)
    for statement in statements or _corrected_statements(event.content.text, known):
        yield Fact(
            subject=statement.subject,
            attribute=statement.attribute,
            value=statement.value,
            text=statement.text,
            is_claim=statement.is_claim,
            is_correction=statement.is_correction,
            said_at=event.timestamp,
            source=event.event_id,
            stream_id=event.stream_id,
        )


def _corrected_statements(text: str, known: Sequence[Fact]) -> Iterator[Statement]:
    replacement = extract_replacement(text)
    if replacement is None:
        return
    new, old = replacement
    for fact in known:
        if fold_text(fact.value) == fold_text(old):
            # The stored sentence has to make sense alone.
            sentence = f"My {fact.attribute} is {new}."
            yield Statement(fact.subject, fact.attribute, new, sentence, is_claim=fact.is_claim, is_correction=True)


def _memory(role: Literal["user", "assistant", "tool"], text: str, event: Event) -> MemoryItem:
    return MemoryItem(
        role=role, text=text, said_at=event.timestamp, said_by=event.context.user_id, flow=event.correlation_id
    )


def _result_text(event: ToolResultEvent) -> str:
    return str(event.content.data.get("text", event.content.value))
