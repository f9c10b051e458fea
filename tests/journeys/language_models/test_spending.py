"""What answers cost, and the caps on it."""

from __future__ import annotations

from typing import Any

import pytest

from petiole.events import TextContent, TextMessageEvent
from petiole.events.catalog.llm import ResponseFailedEvent, ResponseGeneratedEvent, Usage
from petiole.events.catalog.orchestrator import ResponseReadyEvent
from petiole.events.catalog.usage import UsageRecordedEvent
from petiole.events.event import EventContext
from petiole.tasks.testing import EventTestHarness
from petiole.workers.llm.prices import cost_of
from petiole.workers.settings import WorkerSettings
from tests.journeys.language_models.team import Team, a_message, said
from tests.support.endpoint import Endpoint, a_chunk


@pytest.fixture
def priced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an answer cost 0.041 dollars, of which 0.001 are expected for the request."""
    monkeypatch.setenv("PETIOLE_LLM_INPUT_PRICE_PER_MILLION_TOKENS", "1000")
    monkeypatch.setenv("PETIOLE_LLM_OUTPUT_PRICE_PER_MILLION_TOKENS", "10000")
    monkeypatch.setattr("petiole.workers.llm.spending_caps.EXPECTED_OUTPUT_TOKENS", 3)


def ask(harness: EventTestHarness, user: str | None, stream: str) -> str:
    """Ask something; returns what the answer, or the failure, is."""
    message = TextMessageEvent(
        stream_id=stream, context=EventContext(user_id=user), content=TextContent(text="Why is the sky blue?")
    )
    events = harness.send_through(message, timeout=15)
    assert len(said(events, ResponseReadyEvent, message)) == 1
    failures: list[Any] = said(events, ResponseFailedEvent, message)
    return failures[0].content.error_type if failures else "answered"


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("conversation", ["answered", "conversation_cap_reached", "answered", "answered"]),
        ("user", ["answered", "user_cap_reached", "user_cap_reached", "answered"]),
        ("account", ["answered", "account_cap_reached", "account_cap_reached", "account_cap_reached"]),
    ],
)
@pytest.mark.usefixtures("priced")
def test_who_is_over_the_cap_is_told_so_and_others_are_answered(
    team: Team, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, scope: str, expected: list[str]
) -> None:
    monkeypatch.setenv(f"PETIOLE_LLM_MAX_COST_PER_{scope.upper()}", "0.05")
    harness = team()

    answers = [ask(harness, *who) for who in (("ada", "1"), ("ada", "1"), ("ada", "2"), ("bob", "3"))]

    assert answers == expected
    assert len(endpoint.asked) == answers.count("answered")
    told = [event.content.text for event in said(harness.published_events(), ResponseReadyEvent)]
    assert sum("used up" in text for text in told) == len(expected) - answers.count("answered")


def test_a_new_window_and_a_failed_answer_free_what_they_reserved(
    team: Team, endpoint: Endpoint, priced: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PETIOLE_LLM_MAX_COST_PER_USER", "0.05")
    harness = team()
    good, endpoint.reply = endpoint.reply, lambda _: [a_chunk("", "stop")]
    assert ask(harness, "ada", "1") == "ProviderRefused"
    endpoint.reply = good

    assert ask(harness, "ada", "2") == "answered"
    assert ask(harness, "ada", "3") == "user_cap_reached"
    monkeypatch.setenv("PETIOLE_LLM_COST_WINDOW_S", "86300")  # another window, to which nothing was added
    assert ask(harness, "ada", "4") == "answered"


def test_a_cap_without_a_price_is_refused_with_what_to_do(
    team: Team, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PETIOLE_LLM_MAX_COST_PER_USER", "1")

    (failed,) = said(team().send_through(a_message()), ResponseFailedEvent)

    assert failed.content.error_type == "price_unknown"
    assert "PETIOLE_LLM_INPUT_PRICE_PER_MILLION_TOKENS" in failed.content.error


def test_the_tokens_of_an_endpoint_that_counts_none_are_estimated_for_the_record(
    team: Team, endpoint: Endpoint, priced: None
) -> None:
    endpoint.reply = lambda _: [a_chunk("Because of Rayleigh.", "stop")]

    events = team().send_through(a_message())

    assert said(events, ResponseGeneratedEvent)[0].content.usage == Usage()
    (used,) = said(events, UsageRecordedEvent)
    assert used.content.output_tokens == 5
    assert used.content.cost > 0


@pytest.mark.parametrize(
    ("url", "model", "cost"),
    [
        (None, "gpt-4o", 0.0035),
        ("https://api.deepseek.com", "deepseek-chat", 0.00038),
        ("http://127.0.0.1:8000/v1", "gpt-4o", None),
        (None, "nobodys-model", None),
    ],
)
def test_prices_are_those_of_the_endpoint(
    monkeypatch: pytest.MonkeyPatch, url: str | None, model: str, cost: float | None
) -> None:
    pytest.importorskip("genai_prices")
    for name in ("PETIOLE_LLM_BASE_URL", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    if url:
        monkeypatch.setenv("PETIOLE_LLM_BASE_URL", url)
    usage = Usage(input_tokens=1_000, output_tokens=100)

    priced = cost_of(usage, "openai", model, WorkerSettings())

    assert priced is None if cost is None else priced == pytest.approx(cost, rel=0.5)
    assert cost_of(usage, "local", model, WorkerSettings()) is None


def test_a_long_prompt_costs_what_its_tier_does(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("genai_prices")
    monkeypatch.setenv("PETIOLE_LLM_BASE_URL", "https://generativelanguage.googleapis.com/v1beta/openai/")

    short, long = (
        cost_of(Usage(input_tokens=tokens), "openai", "gemini-2.5-pro", WorkerSettings())
        for tokens in (100_000, 300_000)
    )

    assert short is not None
    assert long == pytest.approx(6 * short)
