"""A language model behind a real endpoint, asked by the agents: read along, interrupted, tried again, given tools."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from petiole.events import Event, TextContent, TextMessageEvent
from petiole.events.catalog.llm import ResponseFailedEvent, ResponseGeneratedEvent
from petiole.events.catalog.orchestrator import ModelRequestedEvent, ResponseReadyEvent, ToolsRequestedEvent
from petiole.events.catalog.usage import UsageRecordedEvent
from petiole.events.subscriptions import OnBusy
from petiole.tasks import Agent, Chunk, ResponseStreamReader
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import llm, memory, orchestrator, output, tools
from tests.support.apps import a_bus
from tests.support.endpoint import Endpoint, Refusal, Reply, a_call, a_chunk, a_usage, an_echo, serving, words
from tests.support.inside import Inside

SLOW = 0.05


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    pytest.importorskip("openai")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("PETIOLE_LLM", "openai")
    monkeypatch.setenv("PETIOLE_LLM_MODEL", "parrot")
    with serving() as made:
        monkeypatch.setenv("PETIOLE_LLM_BASE_URL", made.base_url)
        llm._cached_model.cache_clear()
        yield made
        llm._cached_model.cache_clear()


Team = Callable[..., EventTestHarness]


@pytest.fixture
def team(endpoint: Endpoint) -> Iterator[Team]:
    """Make a team whose llm agent does as is said; `without` leaves agents out."""
    made: list[EventTestHarness] = []

    def build(on_busy: OnBusy | None = None, *, without: tuple[Agent, ...] = ()) -> EventTestHarness:
        writer = Agent("llm")
        writer.on("orchestrator.llm.requested", on_busy=on_busy, retry=llm.MODEL_RETRY_POLICY)(llm.answer)
        agents = [writer, *(module.agent for module in (orchestrator, memory, tools, output))]
        made.append(EventTestHarness([agent for agent in agents if agent not in without]))
        return made[-1]

    yield build
    for harness in made:
        harness.close()


def a_message(text: str = "Why is the sky blue?") -> TextMessageEvent:
    return TextMessageEvent(stream_id="s", content=TextContent(text=text))


def asked_of(harness: EventTestHarness, message: Event) -> ModelRequestedEvent:
    (asked,) = [
        event
        for event in harness.published_events()
        if isinstance(event, ModelRequestedEvent) and event.correlation_id == message.correlation_id
    ]
    return asked


def said(events: list[Event], kind: type[Event], message: Event | None = None) -> list[Any]:
    """Choose the events of a class; of one message's flow, where it is given."""
    flow = message.correlation_id if message else None
    return [event for event in events if isinstance(event, kind) and flow in (None, event.correlation_id)]


def begin(harness: EventTestHarness, message: TextMessageEvent) -> tuple[Iterator[Chunk], list[Chunk]]:
    """Say something, and wait until the first words of the answer are there to be read."""
    harness.publish(message)
    reading = ResponseStreamReader(harness.bus).all("s", timeout=10)
    pieces: list[Chunk] = []
    while not any(piece.text and piece.correlation_id == message.correlation_id for piece in pieces):
        pieces.append(next(reading))
    return reading, pieces


# Read along


def test_an_answer_is_read_while_it_is_written_and_is_the_one_that_is_sent(team: Team, endpoint: Endpoint) -> None:
    endpoint.reply = lambda question: words("The sky scatters blue light.", SLOW)
    harness, message = team(), a_message()

    reading, pieces = begin(harness, message)
    assert not said(harness.published_events(), ResponseGeneratedEvent)
    while not pieces[-1].is_end:
        pieces.append(next(reading))
    sent = harness.expect("output.message.sent")

    assert "".join(piece.text for piece in pieces) == "The sky scatters blue light." == sent.content.text  # type: ignore[attr-defined]  # of its class
    assert [piece.kind for piece in pieces if piece.kind != "delta"] == ["started", "finished"]
    assert {piece.answer_id for piece in pieces} == {asked_of(harness, message).event_id}
    assert len(pieces) > 4


def test_what_it_took_and_cost_is_recorded(team: Team, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETIOLE_LLM_INPUT_PRICE_PER_MILLION_TOKENS", "1000")
    monkeypatch.setenv("PETIOLE_LLM_OUTPUT_PRICE_PER_MILLION_TOKENS", "10000")
    harness = team()

    events = harness.send_through(a_message())

    (generated,) = said(events, ResponseGeneratedEvent)
    assert (generated.content.model, generated.content.usage.input_tokens) == ("parrot-1", 11)
    (used,) = said(events, UsageRecordedEvent)
    content = used.content
    assert (content.provider, content.model, content.account) == ("openai", "parrot-1", "llm.openai")
    assert (content.input_tokens, content.output_tokens, content.cost, content.currency) == (11, 3, 0.041, "USD")
    assert harness.bus.stores.rate_limits.usage("llm.openai").tokens == 14


def test_without_a_price_no_cost_is_made_up(team: Team, endpoint: Endpoint) -> None:
    (used,) = said(team().send_through(a_message()), UsageRecordedEvent)

    assert (used.content.cost, used.content.currency) == (None, None)


def test_a_shadow_s_words_are_not_read(team: Team, endpoint: Endpoint) -> None:
    shadow = Agent("shadow")
    shadow.on("orchestrator.llm.requested", shadow=True)(llm.answer)
    harness = team()
    harness.add(shadow)

    harness.send_through(a_message())

    assert len(endpoint.asked) == 2
    kinds = [piece.kind for piece in Inside(harness).chunks("s")]
    assert (kinds.count("started"), kinds.count("finished")) == (1, 1)


# The user says more


def test_a_newer_message_interrupts_and_the_endpoint_sees_its_connection_closed(
    team: Team, endpoint: Endpoint, eventually: Any
) -> None:
    def reply(question: dict[str, Any]) -> Reply:
        is_first = "sky" in question["messages"][-1]["content"].splitlines()[-1]
        return words("ab" * 1000, SLOW) if is_first else an_echo(question)

    endpoint.reply = reply
    harness, first, second = team("interrupt"), a_message(), a_message("Never mind. Who wrote Faust?")
    reading, pieces = begin(harness, first)

    published_at = time.monotonic()
    harness.publish(second)
    eventually(lambda: bool(endpoint.closed_at), 5)
    sent_by_then = endpoint.sent
    while not pieces[-1].is_end or pieces[-1].correlation_id != second.correlation_id:
        pieces.append(next(reading))
    harness.expect("output.message.sent")
    events = harness.published_events()

    assert endpoint.closed_at[0] - published_at < 2
    assert sent_by_then < 200
    (partial,) = said(events, ResponseGeneratedEvent, first)
    assert partial.content.finish_reason == "interrupted"
    assert partial.content.usage.is_estimate
    assert partial.content.usage.output_tokens > 0
    (used,) = said(events, UsageRecordedEvent, first)
    assert used.content.output_tokens == partial.content.usage.output_tokens
    of_first = [piece for piece in pieces if piece.correlation_id == first.correlation_id]
    assert "".join(piece.text for piece in of_first) == partial.content.text
    assert [piece.kind for piece in of_first if piece.kind != "delta"] == ["started", "interrupted"]
    assert of_first[-1].kind == "interrupted"
    assert not said(events, ResponseReadyEvent, first)
    assert len(said(events, ResponseReadyEvent, second)) == 1


def test_a_message_that_was_overtaken_before_its_answer_began_asks_no_model(team: Team, endpoint: Endpoint) -> None:
    harness, first, second = team("interrupt"), a_message("One?"), a_message("Two?")
    request = first.caused(ModelRequestedEvent, content={"text": "One?", "intent": "question"})
    harness.publish(first)
    harness.publish(second)

    harness.send_through(request)

    about_one = [question for question in endpoint.asked if "One?" in question["messages"][-1]["content"][-5:]]
    assert len(about_one) <= 1  # of the flow itself, which may have been faster
    assert "interrupted" in {
        each.content.finish_reason for each in said(harness.published_events(), ResponseGeneratedEvent)
    }


def test_where_answers_queue_up_they_are_written_one_after_the_other(team: Team, endpoint: Endpoint) -> None:
    endpoint.reply = lambda question: words("one two three", SLOW / 2)
    harness = team("enqueue")

    harness.publish(a_message("One?"))
    harness.send_through(a_message("Two?"), timeout=15)

    pieces = Inside(harness).chunks("s")
    ends = [piece.kind for piece in pieces if piece.kind != "delta"]
    assert ends == ["started", "finished", "started", "finished"]


def test_a_second_answer_is_rejected_with_words(team: Team, endpoint: Endpoint) -> None:
    harness, message = team("reject"), a_message()
    Inside(harness).overtake("s", "another")

    events = harness.send_through(message)

    assert endpoint.asked == []
    (failed,) = said(events, ResponseFailedEvent)
    assert (failed.content.error_type, failed.content.is_retryable) == ("StreamBusy", True)
    (ready,) = said(events, ResponseReadyEvent)
    assert "still answering" in ready.content.text


# An endpoint that has its moods


def test_an_endpoint_that_is_away_is_asked_again(team: Team, endpoint: Endpoint) -> None:
    replies: Iterator[Reply] = iter([Refusal(503), [a_chunk("Hel")], words("Hello.")])
    endpoint.reply = lambda question: next(replies)

    harness = team()
    (generated,) = said(harness.send_through(a_message(), timeout=15), ResponseGeneratedEvent)

    assert generated.content.text == "Hello."
    kinds = [(each.attempt, each.kind) for each in Inside(harness).chunks("s") if each.is_end]
    assert kinds == [(1, "failed"), (2, "failed"), (3, "finished")]


@pytest.mark.parametrize(("status", "times", "words_to_user"), [(503, 3, "try again"), (401, 1, "whoever runs me")])
def test_the_user_hears_of_an_endpoint_that_does_not_answer(
    team: Team, endpoint: Endpoint, status: int, times: int, words_to_user: str
) -> None:
    endpoint.reply = lambda question: Refusal(status, {"error": {"message": "no"}})

    events = team().send_through(a_message(), timeout=15)

    assert len(endpoint.asked) == times
    (ready,) = said(events, ResponseReadyEvent)
    assert words_to_user in ready.content.text


def test_an_endpoint_that_is_down_is_left_alone_and_users_hear_of_it(
    team: Team, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PETIOLE_LLM_RETRY_TIMEOUT_S", "5")
    endpoint.reply = lambda question: Refusal(503)
    harness = team()

    failures: list[Any] = []
    for number in range(4):
        events = harness.send_through(a_message(f"Question {number}?"), timeout=15)
        assert len(said(events, ResponseReadyEvent)) == 1
        failures += said(events, ResponseFailedEvent)

    assert len(endpoint.asked) == 5
    assert [failed.content.error_type for failed in failures] == ["ProviderUnavailable"] + 3 * ["ServiceUnavailable"]
    assert harness.dead_letters() == []


def test_an_answer_that_takes_too_long_is_given_up(
    team: Team, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PETIOLE_LLM_ANSWER_TIMEOUT_S", "0.2")
    endpoint.reply = lambda question: words("ab" * 1000, SLOW)

    (failed,) = said(team().send_through(a_message(), timeout=15), ResponseFailedEvent)

    assert "did not end within 0.2 s" in failed.content.error
    assert len(endpoint.closed_at) == 3


@pytest.mark.parametrize("name", ["nobody", "pathlib:Path"])
def test_a_model_that_does_not_exist_is_told_as_a_failure(
    team: Team, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("PETIOLE_LLM", name)

    (failed,) = said(team().send_through(a_message()), ResponseFailedEvent)

    assert (failed.content.model, failed.content.error_type) == (name, "UsageError")


# Rounds of tools


def calls_once(*calls: tuple[str, str]) -> Callable[[dict[str, Any]], Reply]:
    """Call tools for a message, and tell what they gave."""

    def reply(question: dict[str, Any]) -> Reply:
        results = [message["content"] for message in question["messages"] if message["role"] == "tool"]
        if results:
            return words(" and ".join(results))
        made = [a_call(place, name, arguments) for place, (name, arguments) in enumerate(calls)]
        return [*made, a_chunk(finish_reason="tool_calls"), a_usage()]

    return reply


def test_a_model_s_calls_are_made_and_it_answers_with_what_they_gave(team: Team, endpoint: Endpoint) -> None:
    endpoint.reply = calls_once(("calculator", '{"expression": "6 * 7"}'), ("calculator", '{"expression": "1 / 0"}'))

    events = team().send_through(a_message("Surprise me."), timeout=15)

    first, second = said(events, ModelRequestedEvent)
    assert (first.content.round, second.content.round) == (0, 1)
    (execute,) = [each for each in said(events, ToolsRequestedEvent) if each.content.phase == "execute"]
    assert len({call.call_id for call in execute.content.calls}) == 2
    (ready,) = said(events, ResponseReadyEvent)
    assert ready.content.text.startswith("6 * 7 is 42 and failed: ")
    assert [tool["function"]["name"] for tool in endpoint.asked[0]["tools"]].count("calculator") == 1


def test_a_call_of_an_unknown_tool_is_told_to_the_model(team: Team, endpoint: Endpoint) -> None:
    endpoint.reply = calls_once(("sextant", "{}"))

    (ready,) = said(team().send_through(a_message("Surprise me."), timeout=15), ResponseReadyEvent)

    assert "failed: there is no tool 'sextant'" in ready.content.text


def test_rounds_are_bounded_and_the_last_question_offers_no_tools(
    team: Team, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reply(question: dict[str, Any]) -> Reply:
        if "tools" not in question:
            return words("Enough.")
        return [a_call(0, "calculator", '{"expression": "1 + 1"}'), a_chunk(finish_reason="tool_calls")]

    endpoint.reply = reply
    harness = team()

    events = harness.send_through(a_message("Surprise me."), timeout=30)

    assert [each.content.round for each in said(events, ModelRequestedEvent)] == [0, 1, 2, 3, 4]
    assert ["tools" in question for question in endpoint.asked] == [True, True, True, True, False]
    assert [ready.content.text for ready in said(events, ResponseReadyEvent)] == ["Enough."]
    assert harness.dead_letters() == []


def test_a_tool_that_never_answers_ends_the_round_after_a_while(
    team: Team, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PETIOLE_TOOLS_TIMEOUT_S", "0.3")
    endpoint.reply = calls_once(("calculator", '{"expression": "6 * 7"}'))

    events = team(without=(tools.agent,)).send_through(a_message("Surprise me."), timeout=15)

    (ready,) = said(events, ResponseReadyEvent)
    assert ready.content.text == "failed: it did not answer within 0.3 s"


# A worker that dies


ASK = """
from petiole.events.catalog.orchestrator import ModelRequestedEvent
from petiole.tasks import publish
asked = ModelRequestedEvent(stream_id="s", content={"text": "Why is the sky blue?", "intent": "question"})
publish(asked)
print(asked.event_id)
"""


def test_a_killed_worker_s_answer_is_marked_as_lost_once_and_another_begins_it_anew(
    endpoint: Endpoint, node: Any, clean_broker_url: str, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PETIOLE_HEARTBEAT_TIMEOUT_S", "1")
    settings = {name: value for name, value in os.environ.items() if name.startswith(("PETIOLE_", "NO_PROXY"))}
    node.environment.update(settings, PETIOLE_BROKER_URL=clean_broker_url, PETIOLE_AGENTS="petiole.workers.agents.llm")
    endpoint.reply = lambda question: words("ab" * 1000, SLOW)
    first = node.worker("first")
    answer_id = node.run(ASK).strip()
    with a_bus(clean_broker_url) as bus:
        read = ResponseStreamReader(bus)
        reading = read("s", answer_id, timeout=20)
        pieces = [next(reading) for _ in range(5)]
        endpoint.reply = lambda question: words("It scatters.")
        node.worker("second")

        first.kill()
        killed_at = time.monotonic()
        for piece in reading:
            pieces.append(piece)
            if piece.kind == "abandoned":
                break

        assert time.monotonic() - killed_at < 4
        while pieces[-1].kind != "finished":
            pieces += read("s", answer_id, after=pieces[-1].number, timeout=20)
        marks = [(piece.kind, piece.attempt) for piece in pieces if piece.kind != "delta"]
        assert marks == [("started", 1), ("abandoned", 1), ("started", 2), ("finished", 2)]
        assert "".join(piece.text for piece in pieces if piece.attempt == 2) == "It scatters."
        eventually(lambda: Inside(bus).topics().count("llm.response.generated") == 1, 10)
