"""What input, memory, tools, llm and output decide."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest

from events import (
    Event,
    FormattedResponse,
    GeneratedResponse,
    ProactiveSuggestion,
    ProactiveSuggestionEvent,
    ResponseGeneratedEvent,
    ResponseReadyEvent,
    TextContent,
    TextMessageEvent,
    ToolResult,
    ToolResultEvent,
)
from events.catalog.input import StreamEndedEvent
from events.catalog.memory import Recollection
from events.catalog.orchestrator import (
    ContextRequest,
    ToolCall,
    ToolsRequest,
    ToolsRequestedEvent,
)
from events.catalog.output import MessageFailedEvent, MessageSentEvent
from events.catalog.tools import ToolFailedEvent
from events.errors import ProviderRefused, ProviderUnavailable
from workers.agents import input as input_agent
from workers.agents.llm import failure_of
from workers.agents.memory import assembled, recollection_of
from workers.agents.output import addressed, send, wanted_channel
from workers.agents.tools import PROGRESS_BURST, ProgressGate, progressed, recollect, run_call, started
from workers.channels import Channel, Mailbox, Terminal
from workers.tools import ToolContext

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def a_message(text: str = "What is 12 * 7?") -> TextMessageEvent:
    return TextMessageEvent(stream_id="s-1", content=TextContent(text=text))


def said(role: str, text: str) -> Recollection:
    return Recollection.model_validate({"role": role, "text": text, "said_at": NOON})


# Input


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    opened: set[str] = set()

    def open_stream(stream_id: str) -> bool:
        is_new = stream_id not in opened
        opened.add(stream_id)
        return is_new

    monkeypatch.setattr(input_agent, "open_stream", open_stream)
    return opened


def test_input_hears_nothing() -> None:
    assert input_agent.agent.subscriptions == []


def test_a_stream_is_said_to_begin_once(streams: set[str]) -> None:
    published: list[Event] = []

    for text in ("hello", "again"):
        input_agent.receive(text, stream_id="s-1", user_id="u-1", publish=published.append)

    topics = [event.event_type for event in published]
    assert topics == ["input.stream.started", "input.message.received", "input.message.received"]
    assert {event.context.user_id for event in published} == {"u-1"}
    assert len({event.correlation_id for event in published}) == 3


def test_a_bad_message_opens_no_stream(streams: set[str]) -> None:
    published: list[Event] = []

    with pytest.raises(ValueError, match="text"):
        input_agent.receive("", stream_id="s-1", publish=published.append)

    assert (streams, published) == (set(), [])


# Memory


def test_what_users_and_models_said_is_remembered() -> None:
    message = a_message()
    answered = message.caused(ResponseGeneratedEvent, content=GeneratedResponse(text="84", model="rules"))

    assert recollection_of(message, []) == Recollection(role="user", text="What is 12 * 7?", said_at=message.timestamp)
    assert recollection_of(answered, []) == Recollection(role="assistant", text="84", said_at=answered.timestamp)
    assert recollection_of(StreamEndedEvent(stream_id="s-1"), []) is None


def a_result(message: Event, tool: str, **outcome: Any) -> ToolResultEvent:
    return message.caused(ToolResultEvent, content=ToolResult(call_id="c-1", tool=tool, **outcome))


def test_what_a_tool_found_is_remembered_with_its_question() -> None:
    message = a_message()
    result = a_result(message, "calculator", data={"value": 84, "text": "12 * 7 is 84"})

    learned = recollection_of(result, [message, result])

    assert learned is not None
    assert learned.text == 'you asked: "What is 12 * 7?", and the tool calculator found: 12 * 7 is 84'


def test_what_failed_or_was_remembered_already_is_not_remembered() -> None:
    message = a_message()

    assert recollection_of(a_result(message, "recall", data={"value": []}), [message]) is None
    assert recollection_of(a_result(message, "clock", ok=False, error="no zone"), [message]) is None


def test_context_is_the_best_matches_and_whether_there_are_more() -> None:
    earlier = [said("user", f"pizza {number}") for number in range(3)]

    some = assembled(ContextRequest(query="pizza", limit=2), earlier)
    every = assembled(ContextRequest(query="pizza", limit=3), earlier)
    none = assembled(ContextRequest(query="bread", limit=3), earlier)

    assert ([item.text for item in some.items], some.is_truncated) == (["pizza 2", "pizza 1"], True)
    assert (len(every.items), every.is_truncated) == (3, False)
    assert (none.items, none.is_truncated) == ((), False)


# Tools


def a_tools_request(tool: str, **arguments: Any) -> tuple[ToolsRequestedEvent, ToolCall]:
    call = ToolCall(call_id="c-1", tool=tool, arguments=arguments)
    return a_message().caused(ToolsRequestedEvent, content=ToolsRequest(calls=(call,))), call


def run(tool: str, **arguments: Any) -> Event:
    event, call = a_tools_request(tool, **arguments)
    return run_call(event, call, ToolContext("s-1", lambda percent, note: None, lambda query, limit: []))


def test_a_call_ends_with_its_value_and_words() -> None:
    result = run("calculator", expression="12 * 7")

    assert isinstance(result, ToolResultEvent)
    assert result.content.value == 84
    assert result.content.data["text"] == "12 * 7 is 84"


@pytest.mark.parametrize(
    ("tool", "arguments", "error_type"),
    [
        ("calculater", {}, "UnknownTool"),
        ("calculator", {}, "InvalidArguments"),
        ("calculator", {"expression": "1 / 0"}, "ToolFailed"),
    ],
)
def test_a_call_that_cannot_be_run_ends_with_a_failure(tool: str, arguments: dict[str, Any], error_type: str) -> None:
    result = run(tool, **arguments)

    assert isinstance(result, ToolFailedEvent)
    assert (result.content.call_id, result.content.error_type) == ("c-1", error_type)
    assert not result.content.is_retryable


def test_all_said_of_a_call_has_the_same_ids_when_it_is_run_again() -> None:
    event, call = a_tools_request("clock")

    first = [started(event, call), progressed(event, call, 20, ""), progressed(event, call, 40, "")]
    again = [started(event, call), progressed(event, call, 20, ""), progressed(event, call, 40, "")]

    assert [each.event_id for each in first] == [each.event_id for each in again]
    assert len({each.event_id for each in first}) == 3


def test_progress_only_rises() -> None:
    gate = ProgressGate()

    assert [gate.admits(percent, at_s=0) for percent in (0, 20, 20, 10, 30)] == [
        True,
        True,
        False,
        False,
        True,
    ]


def test_progress_goes_out_at_a_limited_rate() -> None:
    gate = ProgressGate()

    at_once = sum(gate.admits(step / 100, at_s=0) for step in range(1000))
    in_ten_seconds = sum(gate.admits(10 + step / 100, at_s=step / 100) for step in range(1000))

    assert at_once == PROGRESS_BURST
    assert in_ten_seconds == 19


def test_recollections_are_what_was_told_not_who_asked_for_it() -> None:
    earlier = [
        said("user", "I like pizza"),
        said("assistant", "I will remember"),
        said("user", "What did I say about pizza?"),
        said("assistant", 'I remember that you said: "I like pizza"'),
        said("user", "bye"),
    ]

    assert [each.text for each in recollect("pizza", 9, earlier)] == ["I like pizza"]
    assert [each.text for each in recollect("what did", 2, earlier)] == ["bye", "I will remember"]


# Llm


def test_a_failure_tells_whether_another_attempt_may_help() -> None:
    assert failure_of("m", ProviderUnavailable("m", "timed out")).is_retryable
    assert not failure_of("m", ProviderRefused("m", "no key")).is_retryable


# Output


def a_response(channel: str | None = None) -> ResponseReadyEvent:
    return a_message().caused(ResponseReadyEvent, content=FormattedResponse(text="84", channel=channel))


def a_suggestion() -> ProactiveSuggestionEvent:
    content = ProactiveSuggestion(text="rest", reason="late", confidence=0.9, cooldown_key="rest")
    return a_message().caused(ProactiveSuggestionEvent, content=content)


@pytest.mark.parametrize(
    ("event", "names"),
    [
        (a_response(), ["mailbox", "terminal"]),
        (a_response("terminal"), ["mailbox", "terminal"]),
        (a_response("mailbox"), ["mailbox"]),
        (a_response("pigeon"), ["mailbox"]),
        (a_suggestion(), ["mailbox", "terminal"]),
    ],
)
def test_the_mailbox_takes_every_answer(event: ResponseReadyEvent | ProactiveSuggestionEvent, names: list[str]) -> None:
    channels: list[Channel] = [Mailbox(lambda *_: None), Terminal()]

    assert [channel.name for channel in addressed(channels, wanted_channel(event))] == names


def test_a_message_is_sent_under_its_id() -> None:
    kept: list[tuple[str, str, str]] = []

    sent = send(a_response(), Mailbox(lambda *message: kept.append(message)), "m-1", "84")

    assert isinstance(sent, MessageSentEvent)
    assert (sent.content.text, sent.content.channel, sent.content.message_id) == ("84", "mailbox", "m-1")
    assert kept == [("s-1", "m-1", "84")]


def test_a_message_that_no_channel_took_is_told_as_failed() -> None:
    output = io.StringIO()
    output.close()

    told = send(a_response(), Terminal(output), "m-1", "84")

    assert isinstance(told, MessageFailedEvent)
    assert (told.content.channel, told.content.error_type) == ("terminal", "ProviderUnavailable")
