"""Endpoints that fail, are slow or are gone, and workers that die over an answer."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from petiole.events.catalog.llm import ResponseFailedEvent, ResponseGeneratedEvent
from petiole.events.catalog.orchestrator import ResponseReadyEvent
from petiole.tasks import ResponseStreamReader, RetryPolicy
from petiole.workers.agents import llm
from tests.journeys.language_models.faulty import FAULTS
from tests.journeys.language_models.team import SLOW, Team, a_message, said
from tests.support.apps import a_bus
from tests.support.endpoint import Endpoint, Refusal, Reply, a_chunk, words
from tests.support.inside import Inside


def test_an_endpoint_that_is_away_is_asked_again(team: Team, endpoint: Endpoint) -> None:
    replies: Iterator[Reply] = iter([Refusal(503), [a_chunk("Hel")], words("Hello.")])
    endpoint.reply = lambda question: next(replies)

    harness = team()
    (generated,) = said(harness.send_through(a_message(), timeout=15), ResponseGeneratedEvent)

    assert generated.content.text == "Hello."
    kinds = [(each.attempt, each.kind) for each in Inside(harness).chunks("s") if each.is_end]
    assert kinds == [(1, "failed"), (2, "failed"), (3, "finished")]


@pytest.mark.parametrize(("status", "times", "words_to_user"), [(503, 3, "try again"), (401, 1, "the operator")])
def test_the_user_hears_of_an_endpoint_that_does_not_answer(
    team: Team, endpoint: Endpoint, status: int, times: int, words_to_user: str
) -> None:
    endpoint.reply = lambda question: Refusal(status, {"error": {"message": "no"}})

    events = team().send_through(a_message(), timeout=15)

    assert len(endpoint.asked) == times
    (ready,) = said(events, ResponseReadyEvent)
    assert words_to_user in ready.content.text


def test_an_answer_that_is_too_long_for_an_event_is_told_to_the_user(team: Team, endpoint: Endpoint) -> None:
    endpoint.reply = lambda question: [a_chunk("x" * 1_500_000)] * 3

    events = team().send_through(a_message(), timeout=15)

    (failed,) = said(events, ResponseFailedEvent)
    assert "it has more than 4,194,304 characters" in failed.content.error
    assert len(said(events, ResponseReadyEvent)) == 1


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


def test_whatever_a_model_raises_the_user_hears_once(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETIOLE_LLM", "tests.journeys.language_models.faulty:Faulty")
    monkeypatch.setattr(llm, "MODEL_RETRY_POLICY", RetryPolicy(max_attempts=1))
    harness, missing = team(), []

    for fault in FAULTS:
        llm._cached_model.cache_clear()  # a model without a name is refused where it is made
        monkeypatch.setenv("PETIOLE_TEST_FAULT", fault)
        message = a_message(fault)
        events = harness.send_through(message, timeout=15)
        outcomes = (len(said(events, ResponseFailedEvent, message)), len(said(events, ResponseReadyEvent, message)))
        missing += [] if outcomes == (1, 1) else [(fault, outcomes)]

    assert missing == []
    assert harness.dead_letters() == []


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

        assert time.monotonic() - killed_at < 15
        while pieces[-1].kind != "finished":
            pieces += read("s", answer_id, after=pieces[-1].number, timeout=20)
        marks = [(piece.kind, piece.attempt) for piece in pieces if piece.kind != "delta"]
        assert marks == [("started", 1), ("abandoned", 1), ("started", 2), ("finished", 2)]
        assert "".join(piece.text for piece in pieces if piece.attempt == 2) == "It scatters."
        eventually(lambda: Inside(bus).topics().count("llm.response.generated") == 1, 10)
