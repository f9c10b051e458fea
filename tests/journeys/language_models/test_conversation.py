"""What a model is given of the conversation: thirty turns, two users, corrections, a tool, and a return after a day."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from petiole.events import Event, EventContext, TextContent, TextMessageEvent, clock
from petiole.tasks.testing import EventTestHarness
from petiole.workers.retrieval.recent_turns import estimate_tokens
from tests.journeys.language_models.team import Team
from tests.support.endpoint import Endpoint, Reply, words

MAX_TOKENS = 420
A_DAY_S = 86_400


@dataclass(frozen=True)
class Turn:
    """What a user writes, and what has to stand in the prompt, and what must not."""

    user: str
    text: str
    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()


YESTERDAY = (
    Turn("ada", "My name is Ada.", lacks=("Earlier", "ada: ")),
    Turn("ada", "yes", has=("heard My name is Ada.",)),
    Turn("ada", "What is the weather in Rome?", has=("- name: Ada",)),
    Turn("ada", "and tomorrow?", has=("What is the weather in Rome?", "heard What is the weather in Rome?")),
    Turn("ada", "What is 12 * 7?", has=("- calculator: 12 * 7 is 84",)),
    Turn("ada", "and that times two?", has=("UTC] the tool calculator found: 12 * 7 is 84",), lacks=("- calculator",)),
    Turn("ada", "I live in Paris.", has=("heard and that times two?",)),
    Turn("ada", "No, that's wrong, I live in Rome.", lacks=("Include in your answer",)),
    Turn("ada", "Where do I live?", has=("- home: Rome",), lacks=("- home: Paris",)),
    Turn("ada", "It's Milan, not Rome.", lacks=("Include in your answer",)),
    Turn("ada", "thanks", has=("- home: Milan",), lacks=("- home: Rome", "- home: Paris")),
    Turn("ada", "My name is Eve.", has=("your name is Ada, and now Eve. Which is right?",)),
    Turn("ada", "Sorry, my name is Ada.", lacks=("Include in your answer",)),
    Turn("ada", "ok", has=("- name: Ada",), lacks=("- name: Eve",)),
)
TODAY = (
    Turn("ada", "Good morning, what did we talk about?", has=("heard ok", "UTC] Good morning")),
    Turn("ada", "and before that?", has=("what did we talk about?",)),
    Turn("bob", "Hello, my name is Bob.", has=("bob: Hello, my name is Bob.", "ada: and before that?")),
    Turn("bob", "What is my name?", has=("- name: Bob", "About bob"), lacks=("- name: Ada", "About ada")),
    Turn("ada", "What is my name?", has=("- name: Ada", "About ada", "bob: What is my name?"), lacks=("- name: Bob",)),
    Turn("bob", "I like tea.", has=("bob: I like tea.",)),
    Turn("ada", "I like coffee.", has=("ada: I like coffee.",), lacks=("- likes tea",)),
    Turn("bob", "What do I like?", has=("- likes tea: yes",), lacks=("- likes coffee",)),
    Turn("ada", "What do I like?", has=("- likes coffee: yes",), lacks=("- likes tea",)),
    Turn("ada", "The launch code word is heliotrope.", has=("Earlier in this conversation, shortened:\n- ada:",)),
    Turn("ada", "Forget what I said about heliotrope.", has=("I have forgotten 0 facts and 2 messages.",)),
    Turn("ada", "What was the launch code word?", lacks=("heliotrope",)),
    Turn("ada", "日本語で話しましょう", has=("日本語で話しましょう",)),
    Turn("ada", "はい", has=("heard 日本語で話しましょう",)),
    Turn("bob", "and me?", has=("- name: Bob", "bob: and me?")),
    Turn("ada", "Goodbye", has=("ada: Goodbye", "bob: and me?")),
)


def echo(question: dict[str, object]) -> Reply:
    """Answer with the user's last line."""
    messages: list[dict[str, str]] = question["messages"]  # type: ignore[assignment]  # a request of chat completions
    return words(f"heard {messages[-1]['content'].splitlines()[-1].removeprefix('ada: ').removeprefix('bob: ')}")


def ask(team: EventTestHarness, turn: Turn) -> str:
    context = EventContext(source="test", user_id=turn.user)
    sent = team.send_event_and_wait(
        TextMessageEvent(stream_id="s", content=TextContent(text=turn.text), context=context),
        "output.message.sent",
        timeout=20,
    )
    return text_of(sent)


def text_of(sent: Event) -> str:
    return str(sent.content.text)  # type: ignore[attr-defined]  # of that type


@pytest.fixture(autouse=True)
def _own_clock() -> Iterator[None]:
    yield
    clock.correct(0)


def test_a_model_is_given_the_conversation_of_thirty_turns(team: Team, endpoint: Endpoint, monkeypatch):
    monkeypatch.setenv("PETIOLE_CONTEXT_MAX_TOKENS", str(MAX_TOKENS))
    endpoint.reply = echo
    harness = team()
    wrong: list[str] = []
    answer = ""

    for number, turn in enumerate([*YESTERDAY, *TODAY]):
        clock.correct(0 if number >= len(YESTERDAY) else -A_DAY_S)
        before, answer = answer, ask(harness, turn)
        wrong += [
            f"{number} {turn.text!r}: {why}" for why in check_prompt(endpoint.asked[-1]["messages"], turn, before)
        ]

    assert len(endpoint.asked) == 30
    assert wrong == []
    assert harness.dead_letters() == []


def check_prompt(messages: list[dict[str, str]], turn: Turn, answer_before: str) -> Iterator[str]:
    """Say what is wrong with a prompt."""
    roles, prompt = [message["role"] for message in messages], "\n\n".join(each["content"] for each in messages)
    if roles != ["system", *["user", "assistant"] * (len(roles) // 2 - 1), "user"]:
        yield f"its roles are {roles}"
    if not messages[-1]["content"].endswith(turn.text):
        yield f"it ends with {messages[-1]['content'][-60:]!r}"
    if answer_before and "forget" not in turn.text and "heliotrope" not in answer_before:
        yield from () if messages[-2]["content"] == answer_before else [f"the last answer is not {answer_before!r}"]
    tokens = sum(estimate_tokens(each["content"]) for each in messages[1:-1])
    if tokens > MAX_TOKENS:
        yield f"the turns have {tokens} tokens"
    yield from (f"it lacks {text!r} in\n{prompt}" for text in turn.has if text not in prompt)
    yield from (f"it has {text!r} in\n{prompt}" for text in turn.lacks if text in prompt)
