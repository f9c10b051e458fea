"""Endpoints are read leniently: what they do beside the protocol changes no answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from petiole.events.catalog.llm import GeneratedResponse
from petiole.events.errors import ProviderRefused, ProviderUnavailable
from petiole.workers.llm import create_model
from petiole.workers.llm.provider import ResponseBuilder
from tests.contracts.language_models.asking import CLOCK, a_request
from tests.contracts.language_models.oddities import BROKEN, ODDITIES, REFUSED, Oddity
from tests.support.endpoint import Reply, serving

Answer: TypeAlias = Callable[[Reply], GeneratedResponse]


@pytest.fixture(scope="module")
def answer() -> Iterator[Answer]:
    """Have a model answer with what an endpoint replies; one model for all, because a client takes long to make."""
    pytest.importorskip("openai")
    with pytest.MonkeyPatch.context() as patch, serving() as endpoint, asyncio.Runner() as runner:
        patch.setenv("NO_PROXY", "*")
        patch.setenv("PETIOLE_LLM_MODEL", "parrot")
        patch.setenv("PETIOLE_LLM_BASE_URL", endpoint.base_url)
        model = create_model("openai")

        async def build() -> GeneratedResponse:
            builder, request = ResponseBuilder(), a_request()
            async for part in model.answer(request, (CLOCK,)):
                builder.add(part)
            return builder.build(model.name, request)

        def answer_with(reply: Reply) -> GeneratedResponse:
            endpoint.reply = lambda _: reply
            return runner.run(build())

        yield answer_with


@pytest.mark.parametrize("oddity", ODDITIES.values(), ids=ODDITIES)
def test_an_answer_is_read_in_whatever_way_it_is_sent(oddity: Oddity, answer: Answer) -> None:
    response = answer(oddity.reply)

    assert response.text == oddity.text
    assert [(call.tool, call.arguments) for call in response.calls] == list(oddity.calls)
    assert response.finish_reason == oddity.finish_reason
    assert (response.usage.input_tokens, response.usage.output_tokens) == oddity.tokens


@pytest.mark.parametrize("chunks", REFUSED.values(), ids=REFUSED)
def test_only_an_answer_with_neither_text_nor_call_is_refused(chunks: Reply, answer: Answer) -> None:
    with pytest.raises(ProviderRefused):
        answer(chunks)


@pytest.mark.parametrize("chunks", BROKEN.values(), ids=BROKEN)
def test_an_answer_that_broke_in_the_middle_is_worth_another_try(chunks: Reply, answer: Answer) -> None:
    with pytest.raises(ProviderUnavailable):
        answer(chunks)
