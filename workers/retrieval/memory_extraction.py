"""Lessons: what an event leaves to be remembered, and which facts it teaches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from petiole.events.catalog.input import TextMessageEvent
from petiole.events.catalog.llm import ResponseGeneratedEvent
from petiole.events.catalog.memory import Fact, MemoryItem
from petiole.events.catalog.tools import ToolResultEvent
from petiole.events.event import Event
from petiole.workers.retrieval.statements import extract_statements

# What a tool found in the memory is there already.
_IGNORED_TOOLS = {"recall"}
_MAX_FACT_LENGTH = 500


def extract_recollection(event: Event, flow: Sequence[Event]) -> MemoryItem | None:
    """Word what an event leaves to be remembered; None where that is nothing."""
    match event:
        case TextMessageEvent():
            return MemoryItem(role="user", text=event.content.text, said_at=event.timestamp)
        case ResponseGeneratedEvent() if event.content.text:
            return MemoryItem(role="assistant", text=event.content.text, said_at=event.timestamp)
        case ToolResultEvent() if _is_worth_keeping(event):
            return MemoryItem(role="tool", text=_result_with_question(event, flow), said_at=event.timestamp)
    return None


def extract_facts(event: Event, flow: Sequence[Event]) -> Iterator[Fact]:
    """Read what a user states, and what a tool found; what is found again replaces what was found before."""
    match event:
        case TextMessageEvent():
            for each in extract_statements(event.content.text):
                yield Fact(
                    subject=each.subject,
                    attribute=each.attribute,
                    value=each.value,
                    text=each.text,
                    is_claim=each.is_claim,
                    said_at=event.timestamp,
                    source=event.event_id,
                    stream_id=event.stream_id,
                )
        case ToolResultEvent() if _is_worth_keeping(event):
            found, question = _result_text(event), _question_in(flow)
            if found and question and len(found) + len(question) <= _MAX_FACT_LENGTH:
                yield Fact(
                    subject=event.content.tool,
                    attribute=question,
                    value=found,
                    text=_result_with_question(event, flow),
                    is_claim=False,
                    said_at=event.timestamp,
                    source=event.event_id,
                    stream_id=event.stream_id,
                )


def _is_worth_keeping(event: ToolResultEvent) -> bool:
    return event.content.ok and event.content.tool not in _IGNORED_TOOLS


def _result_with_question(event: ToolResultEvent, flow: Sequence[Event]) -> str:
    """Word what a tool found, with the question it was for: who asks for the one finds the other."""
    question = _question_in(flow)
    asked = f'you asked: "{question}", and ' if question else ""
    return f"{asked}the tool {event.content.tool} found: {_result_text(event)}"


def _result_text(event: ToolResultEvent) -> str:
    return str(event.content.data.get("text", event.content.value))


def _question_in(flow: Sequence[Event]) -> str | None:
    return next((each.content.text for each in flow if isinstance(each, TextMessageEvent)), None)
