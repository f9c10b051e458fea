"""What is read of the responses of providers and tool servers."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from petiole.workers import response_limits
from petiole.workers.llm.provider import MAX_ANSWER_LENGTH, ResponseBuilder, TextDelta
from petiole.workers.response_limits import REQUEST_HEADERS, ResponseRefused, limit_response


async def chunks(*texts: bytes) -> AsyncIterator[bytes]:
    for text in texts:
        yield text


def read(*texts: bytes, **headers: str) -> bytes:
    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.headers["accept-encoding"] == "identity"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx2.Response(200, headers=named, content=chunks(*texts))

    async def get() -> bytes:
        options: dict[str, Any] = {
            "transport": httpx2.MockTransport(answer),
            "event_hooks": {"response": [limit_response]},
        }
        async with httpx2.AsyncClient(headers=REQUEST_HEADERS, **options) as client:
            return (await client.get("http://provider.test/")).content

    return asyncio.run(get())


@pytest.fixture(autouse=True)
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_limits, "MAX_RESPONSE_BYTES", 100)


def test_a_response_within_the_limit_is_read():
    assert read(b"x" * 60, b"y" * 40) == b"x" * 60 + b"y" * 40


def test_a_larger_response_is_refused_when_the_limit_is_reached():
    with pytest.raises(ResponseRefused, match="more than 100 bytes"):
        read(b"x\n" * 30, b"y" * 41)


def test_a_compressed_response_is_refused_before_it_is_decompressed():
    with pytest.raises(ResponseRefused, match="gzip"):
        read(gzip.compress(b" " * 1_000), content_encoding="gzip")


def test_a_stream_of_events_may_be_endless_and_each_event_is_limited():
    event = b"data: " + b"x" * 70 + b"\n\n"

    assert read(*[event] * 10, content_type="text/event-stream") == event * 10
    with pytest.raises(ResponseRefused, match="more than 100 bytes"):
        read(event, b"x" * 60, b"x" * 60, content_type="text/event-stream")


def test_an_answer_of_a_model_ends_at_the_limit():
    answer = ResponseBuilder()
    answer.add(TextDelta("x" * MAX_ANSWER_LENGTH))

    with pytest.raises(Exception, match="more than 4,194,304 characters"):
        answer.add(TextDelta("x"))
