"""What every language model promises."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from petiole.events.catalog.llm import GeneratedResponse
from petiole.events.catalog.orchestrator import ContextItem, ToolMessage
from petiole.workers.llm import LanguageModel, create_model, list_models
from petiole.workers.llm.provider import Finished, ResponsePart, TextDelta
from tests.contracts.language_models.asking import ENDPOINTS, a_request
from tests.support.endpoint import Endpoint, a_chunk


def test_the_folder_holds_three_models() -> None:
    assert {"rules", "openai", "local"} == set(list_models())


def test_a_model_answers_to_its_name(model: LanguageModel) -> None:
    assert isinstance(model, LanguageModel)
    assert model.name in list_models()


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("Hello, can you help me?", "greeting"),
        ("Why is the sky blue?", "question"),
        ("I like pizza.", "statement"),
        ("Bye", "farewell"),
        ("…", "an intent of somebody's own"),
    ],
)
def test_every_request_has_an_answer(model: LanguageModel, text: str, intent: str, ask: Any) -> None:
    response = ask(model, a_request(text, intent))

    assert isinstance(response, GeneratedResponse)
    assert response.text.strip()
    assert response.model
    assert response.finish_reason == "stop"


def test_a_request_for_help_is_answered_with_help(model: LanguageModel, ask: Any) -> None:
    response = ask(model, a_request("Hello, can you help me?", "greeting"))

    assert "help" in response.text.lower()


def test_what_tools_found_is_in_the_answer(model: LanguageModel, ask: Any) -> None:
    tools = (ToolMessage(tool="calculator", ok=True, text="12 * 7 is 84"),)

    assert "12 * 7 is 84" in ask(model, a_request("What is 12 * 7?", "calculation", tools=tools)).text


def test_what_tools_could_not_find_is_in_the_answer(model: LanguageModel, ask: Any) -> None:
    tools = (ToolMessage(tool="calculator", ok=False, text="1 / 0 divides by zero"),)

    assert "divides by zero" in ask(model, a_request("What is 1 / 0?", "calculation", tools=tools)).text


def test_what_was_said_earlier_is_in_the_answer(model: LanguageModel, ask: Any) -> None:
    context = (ContextItem(role="user", text="The sky is blue because of Rayleigh."),)

    assert "Rayleigh" in ask(model, a_request(context=context)).text


def test_a_model_answers_again_and_again(model: LanguageModel, ask: Any) -> None:
    answers = {ask(model, a_request()).text for _ in range(3)}

    assert len(answers) == 1


def test_an_answer_comes_in_parts_and_its_end_comes_last(model: LanguageModel, parts: Any) -> None:
    *said, end = parts(model, a_request())

    assert isinstance(end, Finished)
    assert len(said) > 1
    assert all(isinstance(part, TextDelta) and part.text for part in said)


def test_an_answer_can_be_left_at_any_time_and_the_next_is_whole(
    model: LanguageModel, loop: asyncio.Runner, ask: Any
) -> None:
    async def leave_after_one() -> ResponsePart:
        async with aclosing(model.answer(a_request())) as parts:  # type: ignore[type-var]  # each of them is a generator
            return await anext(parts)

    first = loop.run(leave_after_one())

    assert isinstance(first, TextDelta)
    assert ask(model, a_request()).text.startswith(first.text)


@pytest.mark.parametrize("name", ENDPOINTS)
@pytest.mark.parametrize("way", ["closed", "cancelled"])
def test_an_endpoint_sees_its_connection_closed_by_whoever_leaves(
    endpoint: Endpoint, loop: asyncio.Runner, eventually: Any, name: str, way: str
) -> None:
    pytest.importorskip("openai")
    endpoint.reply = lambda _: [a_chunk("Hel"), 30, a_chunk("lo")]
    model = create_model(name)

    async def leave() -> None:
        async with aclosing(model.answer(a_request())) as parts:  # type: ignore[type-var]  # as above
            assert await anext(parts) == TextDelta("Hel")
            if way == "cancelled":
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(parts), 0.05)

    loop.run(leave())

    eventually(lambda: bool(endpoint.closed_at), 5)
    assert endpoint.sent == 1
