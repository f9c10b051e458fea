"""What an endpoint's statuses, and silence mean."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from petiole.events.errors import ProviderRefused, ProviderUnavailable
from petiole.workers.llm import LanguageModel, create_model
from tests.contracts.language_models.asking import a_request
from tests.support.endpoint import Endpoint, Refusal, a_chunk


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
def test_a_status_that_may_pass_means_later(
    endpoint: Endpoint, openai_model: LanguageModel, status: int, ask: Any
) -> None:
    endpoint.reply = lambda _: Refusal(status, {"error": {"message": "busy"}})

    with pytest.raises(ProviderUnavailable, match=f"status {status}") as unavailable:
        ask(openai_model, a_request())

    assert unavailable.value.__cause__ is not None
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_status_that_stays_means_never(
    endpoint: Endpoint, openai_model: LanguageModel, status: int, ask: Any
) -> None:
    endpoint.reply = lambda _: Refusal(status, {"error": {"message": "no such model"}})

    with pytest.raises(ProviderRefused, match=rf"status {status}.*no such model") as refused:
        ask(openai_model, a_request())

    assert refused.value.__cause__ is not None
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize("said", [[], ["Hel"]], ids=["before the first word", "in the middle"])
def test_silence_means_later(monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint, ask: Any, said: list[str]) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("PETIOLE_LLM_TIMEOUT_S", "0.2")
    endpoint.reply = lambda _: [*map(a_chunk, said), 30]

    with pytest.raises(ProviderUnavailable, match="timed out"):
        ask(create_model("openai"), a_request())


def test_how_long_a_server_wants_to_be_left_alone_stays_with_the_error(
    endpoint: Endpoint, openai_model: LanguageModel, ask: Any
) -> None:
    endpoint.reply = lambda _: Refusal(429, {"error": {"message": "busy"}}, {"Retry-After": "7"})

    with pytest.raises(ProviderUnavailable) as unavailable:
        ask(openai_model, a_request())

    assert unavailable.value.__cause__.response.headers["retry-after"] == "7"  # type: ignore[union-attr]  # openai's


def test_a_refused_connection_means_later(monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint, ask: Any) -> None:
    pytest.importorskip("openai")
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as gone:
        monkeypatch.setenv("PETIOLE_LLM_BASE_URL", f"http://127.0.0.1:{gone.server_port}/v1")

    with pytest.raises(ProviderUnavailable, match="connection error"):
        ask(create_model("openai"), a_request())


@pytest.mark.parametrize(
    "body",
    [b"<html>a proxy</html>", b"{ broken", b"null", [], {}, {"choices": []}],
    ids=["html", "broken", "null", "a list", "nothing", "no stream"],
)
def test_what_is_no_stream_means_later(endpoint: Endpoint, openai_model: LanguageModel, body: Any, ask: Any) -> None:
    endpoint.reply = lambda _: Refusal(200, body)

    with pytest.raises(ProviderUnavailable, match="ended early"):
        ask(openai_model, a_request())
