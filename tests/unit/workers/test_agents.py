"""What input, memory, tools, llm and output decide."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest

from petiole.events import (
    Event,
    FormattedResponse,
    GeneratedResponse,
    ResponseGeneratedEvent,
    ResponseReadyEvent,
    TextContent,
    TextMessageEvent,
    ToolResult,
    ToolResultEvent,
)
from petiole.events.catalog.memory import MemoryItem
from petiole.events.catalog.orchestrator import ContextRequest
from petiole.events.catalog.session import StreamEndedEvent
from petiole.events.errors import (
    OperationOutcomeUnknown,
    PetioleError,
    ProviderRefused,
    ProviderUnavailable,
    RetryLater,
)
from petiole.tasks import SessionInfo
from petiole.workers.agents import input as input_agent
from petiole.workers.agents.llm import build_model_failure
from petiole.workers.agents.memory import select_context
from petiole.workers.agents.output import (
    OutgoingMessage,
    build_formatting_completed,
    build_message_failed,
    is_final_failure,
    select_channels,
    send_once,
)
from petiole.workers.agents.tools import search_memory
from petiole.workers.channels import Mailbox, OutputChannel, Terminal
from petiole.workers.retrieval.keyword import KeywordRetriever
from petiole.workers.retrieval.memory_extraction import extract_facts, extract_recollection

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def a_message(text: str = "What is 12 * 7?") -> TextMessageEvent:
    return TextMessageEvent(stream_id="s-1", content=TextContent(text=text))


def said(role: str, text: str) -> MemoryItem:
    return MemoryItem.model_validate({"role": role, "text": text, "said_at": NOON})


# Input


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> dict[str, SessionInfo]:
    opened: dict[str, SessionInfo] = {}

    def enter(event: Event, *, session_type: str, **_: object) -> SessionInfo:
        made = {"session_id": event.stream_id, "state": "new", "created_at": NOON, "last_activity": NOON}
        return opened.setdefault(event.stream_id, SessionInfo.model_validate(made | {"session_type": session_type}))

    def begin(session: SessionInfo, **_: object) -> None:
        opened[session.session_id] = session.model_copy(update={"state": "active"})

    monkeypatch.setattr(input_agent, "record_session_event", enter)
    monkeypatch.setattr(input_agent, "mark_session_started", begin)
    return opened


def test_input_hears_nothing() -> None:
    assert input_agent.agent.subscriptions == []


def test_a_stream_is_said_to_begin_once(streams: dict[str, SessionInfo]) -> None:
    published: list[Event] = []

    for text in ("hello", "again"):
        input_agent.publish_message(text, stream_id="s-1", user_id="u-1", publish=published.append)

    topics = [event.event_type for event in published]
    assert topics == ["input.stream.started", "input.message.received", "input.message.received"]
    assert {event.context.user_id for event in published} == {"u-1"}
    assert len({event.correlation_id for event in published}) == 3


def test_a_bad_message_opens_no_stream(streams: dict[str, SessionInfo]) -> None:
    published: list[Event] = []

    with pytest.raises(ValueError, match="text"):
        input_agent.publish_message("", stream_id="s-1", publish=published.append)

    assert (streams, published) == ({}, [])


# Memory


def test_what_users_and_models_said_is_remembered() -> None:
    message = a_message()
    answered = message.caused(ResponseGeneratedEvent, content=GeneratedResponse(text="84", model="rules"))

    memories = [extract_recollection(event) for event in (message, answered)]

    assert [(memory.role, memory.text, memory.said_at) for memory in memories if memory] == [
        ("user", "What is 12 * 7?", message.timestamp),
        ("assistant", "84", answered.timestamp),
    ]
    assert {(memory.said_by, memory.flow) for memory in memories if memory} == {
        (message.context.user_id, message.correlation_id)
    }
    assert extract_recollection(StreamEndedEvent(stream_id="s-1")) is None


def a_result(message: Event, tool: str, **outcome: Any) -> ToolResultEvent:
    return message.caused(ToolResultEvent, content=ToolResult(call_id="c-1", tool=tool, **outcome))


def test_what_a_tool_found_is_remembered_as_the_reading_of_a_tool() -> None:
    message = a_message()
    result = a_result(message, "calculator", data={"value": 84, "text": "12 * 7 is 84"})

    learned = extract_recollection(result)

    assert learned is not None
    assert (learned.role, learned.said_at) == ("tool", result.timestamp)
    assert learned.text == "the tool calculator found: 12 * 7 is 84"
    assert list(extract_facts(result)) == []


def test_what_failed_or_was_remembered_already_is_not_remembered() -> None:
    message = a_message()

    assert extract_recollection(a_result(message, "recall", data={"value": []})) is None
    assert extract_recollection(a_result(message, "clock", ok=False, error="no zone")) is None


def test_context_is_the_best_matches_and_whether_there_are_more() -> None:
    earlier = [said("user", f"pizza {number}") for number in range(3)]

    some = select_context(ContextRequest(query="pizza", limit=2), earlier, KeywordRetriever(), 1_500)
    every = select_context(ContextRequest(query="pizza", limit=3), earlier, KeywordRetriever(), 1_500)
    none = select_context(ContextRequest(query="bread", limit=3), earlier, KeywordRetriever(), 1_500)

    assert ([item.text for item in some.items], some.is_truncated) == (["pizza 2", "pizza 1"], True)
    assert (len(every.items), every.is_truncated) == (3, False)
    assert (none.items, none.is_truncated) == ((), False)


# Tools


def test_recollections_are_what_was_told_not_who_asked_for_it() -> None:
    earlier = [
        said("user", "I like pizza"),
        said("assistant", "I will remember"),
        said("user", "What did I say about pizza?"),
        said("assistant", 'I remember that you said: "I like pizza"'),
        said("user", "bye"),
    ]

    assert [each.text for each in search_memory("pizza", 9, earlier, KeywordRetriever())] == ["I like pizza"]
    assert [each.text for each in search_memory("what did", 2, earlier, KeywordRetriever())] == [
        "bye",
        "I will remember",
    ]


# Llm


def test_a_failure_tells_whether_another_attempt_may_help() -> None:
    assert build_model_failure("m", ProviderUnavailable("m", "timed out")).is_retryable
    assert not build_model_failure("m", ProviderRefused("m", "no key")).is_retryable


# Output


def a_response(channel: str | None = None) -> ResponseReadyEvent:
    return a_message().caused(ResponseReadyEvent, content=FormattedResponse(text="84", channel=channel))


@pytest.mark.parametrize(
    ("requested", "names"),
    [
        (None, ["mailbox", "terminal"]),
        ("terminal", ["mailbox", "terminal"]),
        ("mailbox", ["mailbox"]),
        ("pigeon", ["mailbox"]),
    ],
)
def test_the_mailbox_takes_every_answer(requested: str | None, names: list[str]) -> None:
    channels: list[OutputChannel] = [Mailbox(lambda *_: None), Terminal()]

    assert [channel.name for channel in select_channels(channels, requested)] == names


A_MESSAGE = OutgoingMessage("84", "answer", "s-1")


def test_a_message_is_sent_under_its_id() -> None:
    kept: list[tuple[str, str, str]] = []

    sent = send_once(a_response(), Mailbox(lambda *message: kept.append(message)), "m-1", A_MESSAGE)

    assert (sent.content.text, sent.content.channel, sent.content.message_id) == ("84", "mailbox", "m-1")
    assert kept == [("s-1", "m-1", "84")]


@pytest.mark.parametrize(
    ("error", "attempt", "over"),
    [
        (ProviderUnavailable("webhook", "status 503"), 1, False),
        (ProviderUnavailable("webhook", "status 503"), 2, False),
        (ProviderUnavailable("webhook", "status 503"), 3, True),
        (ProviderRefused("webhook", "status 404"), 1, True),
        (OperationOutcomeUnknown("output.send", "m-1 terminal", "noon"), 2, True),
        (RetryLater("the breaker is open", 5.0), 9, False),
    ],
    ids=str,
)
def test_a_channel_is_tried_until_it_refuses_or_the_last_attempt_fails(
    error: PetioleError, attempt: int, over: bool
) -> None:
    assert is_final_failure(error, attempt) is over


def test_what_is_said_of_a_message_and_a_channel_is_said_once() -> None:
    mailbox, terminal = Mailbox(lambda *_: None), Terminal(io.StringIO())
    response = a_response()

    first, again = (build_formatting_completed(response, mailbox, "m-1", "84") for _ in range(2))
    others = [
        build_formatting_completed(response, terminal, "m-1", "84"),
        build_formatting_completed(response, mailbox, "m-2", "84"),
        build_message_failed(response, mailbox, "m-1", A_MESSAGE, ProviderUnavailable("mailbox", "gone")),
    ]

    assert first.event_id == again.event_id
    assert len({each.event_id for each in (first, *others)}) == 4
