"""What the rules say, as a table."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petiole.events.catalog.orchestrator import ContextItem, ModelRequest, ToolMessage
from petiole.workers.llm.provider import ToolDescription
from petiole.workers.llm.rules import compose_answer
from petiole.workers.llm.rules.tool_choice import choose_tool


def _lists_and_objects(part: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(part) | st.dictionaries(st.sampled_from(["type", "enum", "properties", "city"]), part)


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), _lists_and_objects)
FIELDS = st.fixed_dictionaries({}, optional=dict.fromkeys(("type", "enum", "anyOf"), JSON | st.lists(JSON)))
SCHEMAS = JSON | st.fixed_dictionaries(
    {"properties": JSON | st.dictionaries(st.text(), FIELDS | JSON), "required": JSON | st.just(["city"])}
)


def a_request(text: str, intent: str, **known: object) -> ModelRequest:
    return ModelRequest.model_validate({"text": text, "intent": intent, **known})


def an_answer(tool: str, text: str, *, ok: bool = True) -> ToolMessage:
    return ToolMessage(tool=tool, ok=ok, text=text)


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ([an_answer("calculator", "12 * 7 is 84")], "12 * 7 is 84."),
        ([an_answer("calculator", "84")], "The calculator says 84."),
        ([an_answer("clock", "it is 12:00")], "It is 12:00."),
        ([an_answer("recall", 'I remember that you said: "Hi!"')], 'I remember that you said: "Hi!"'),
        ([an_answer("calculator", "1 is 1"), an_answer("clock", "it is 1:00")], "1 is 1. It is 1:00."),
        (
            [an_answer("calculator", "1 / 0 divides by zero", ok=False)],
            "That did not work: 1 / 0 divides by zero.",
        ),
        ([an_answer("calculator", "", ok=False)], "That did not work: calculator gave no reason."),
    ],
)
def test_what_tools_found_is_put_into_sentences(answers: list[ToolMessage], sentence: str) -> None:
    assert compose_answer(a_request("?", "calculation", tools=answers)) == sentence


def test_a_greeting_offers_help() -> None:
    assert "help" in compose_answer(a_request("Hello, can you help me?", "greeting"))


@pytest.mark.parametrize(("text", "intent"), [("Are you a language model?", "identity"), ("Why?", "question")])
def test_the_rules_own_up_to_being_no_language_model(text: str, intent: str) -> None:
    assert "no language model" in compose_answer(a_request(text, intent))


def test_a_statement_is_taken_in() -> None:
    said = compose_answer(a_request("My name is Ada, I live in Rome and I don't like tea.", "statement"))

    assert said == "I will remember that your name is Ada and that you live in Rome and that you do not like tea."


def test_a_long_statement_is_quoted_in_part() -> None:
    assert len(compose_answer(a_request("a" * 100_000, "statement"))) < 300


def test_a_question_is_answered_from_what_the_user_said() -> None:
    context = [ContextItem(role="assistant", text="Noted."), ContextItem(role="user", text="Grass is green.")]

    said = compose_answer(a_request("Why is grass green?", "question", context=context))

    assert said.endswith('But I remember that you said: "Grass is green."')


@given(schema=SCHEMAS, description=st.none() | st.just("Tell the weather of a city."))
def test_no_schema_of_a_tool_fails_its_choice(schema: Any, description: Any) -> None:
    chosen = choose_tool("What is the weather in Oslo?", [ToolDescription("weather", description, schema)])

    assert chosen is not None


@pytest.mark.parametrize("kind", [["string", "null"], ["null", "string"], "string"])
def test_a_parameter_of_several_types_is_read(kind: Any) -> None:
    schema = {"properties": {"city": {"type": kind}}, "required": ["city"]}

    chosen = choose_tool("What is the weather in Oslo?", [ToolDescription("weather", "", schema)])

    assert chosen is not None
    assert chosen.arguments == {"city": "Oslo"}
