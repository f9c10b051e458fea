"""Memory extraction: read memories and facts from events. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from petiole.events.catalog.input import TextMessageEvent
from petiole.events.catalog.llm import ResponseGeneratedEvent
from petiole.events.catalog.memory import Fact, MemoryItem
from petiole.events.catalog.tools import ToolResultEvent
from petiole.events.event import Event
from petiole.workers.retrieval.statements import extract_statements

# The results of these tools come from the memory.
_IGNORED_TOOLS = {"recall"}
_MAX_FACT_LENGTH = 500


def extract_recollection(event: Event, flow: Sequence[Event]) -> MemoryItem | None:
    """Extract the memory of an event; None if it has none."""
    match event:
        case TextMessageEvent():
            return MemoryItem(role="user", text=event.content.text, said_at=event.timestamp)
        case ResponseGeneratedEvent() if event.content.text:
            return MemoryItem(role="assistant", text=event.content.text, said_at=event.timestamp)
        case ToolResultEvent() if _is_worth_keeping(event):
            return MemoryItem(role="tool", text=_result_with_question(event, flow), said_at=event.timestamp)
    return None


def extract_facts(event: Event, flow: Sequence[Event]) -> Iterator[Fact]:
    """Extract user statements and tool results as facts. A tool's next result is a new value of its fact."""
    match event:
        case TextMessageEvent():
            for statement in extract_statements(event.content.text):
                yield Fact(
                    subject=statement.subject,
                    attribute=statement.attribute,
                    value=statement.value,
                    text=statement.text,
                    is_claim=statement.is_claim,
                    said_at=event.timestamp,
                    source=event.event_id,
                    stream_id=event.stream_id,
                )
        case ToolResultEvent() if _is_worth_keeping(event):
            result, question = _result_text(event), _question_in(flow)
            if result and question and len(result) + len(question) <= _MAX_FACT_LENGTH:
                yield Fact(
                    subject=event.content.tool,
                    attribute=question,
                    value=result,
                    text=_result_with_question(event, flow),
                    is_claim=False,
                    said_at=event.timestamp,
                    source=event.event_id,
                    stream_id=event.stream_id,
                )


def _is_worth_keeping(event: ToolResultEvent) -> bool:
    return event.content.ok and event.content.tool not in _IGNORED_TOOLS


def _result_with_question(event: ToolResultEvent, flow: Sequence[Event]) -> str:
    """Format a tool's result with the user's question, so that a search for either finds both."""
    question = _question_in(flow)
    introduction = f'you asked: "{question}", and ' if question else ""
    return f"{introduction}the tool {event.content.tool} found: {_result_text(event)}"


def _result_text(event: ToolResultEvent) -> str:
    return str(event.content.data.get("text", event.content.value))


def _question_in(flow: Sequence[Event]) -> str | None:
    return next((event.content.text for event in flow if isinstance(event, TextMessageEvent)), None)
