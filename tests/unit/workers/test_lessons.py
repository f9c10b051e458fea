"""What is read out of what users say."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest

from petiole.events.catalog.input import TextMessageEvent
from petiole.events.catalog.memory import Fact, MemoryItem
from petiole.events.content import TextContent
from petiole.workers.retrieval.candidates import collect_candidates
from petiole.workers.retrieval.questions import normalize_question
from petiole.workers.retrieval.statements import extract_statements
from petiole.workers.state.facts import MAX_VALUES_PER_FACT, LearnResult, learn

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("My name is Ada.", [("name", "Ada")]),
        ("Actually, call me Ada!", [("name", "Ada")]),
        ("Hi, my name is Ada and I live in Paris, France.", [("name", "Ada"), ("home", "Paris, France")]),
        ("I live in Paris and work at ESA", [("home", "Paris"), ("employer", "ESA")]),
        ("I work as a nurse; I\u2019m 36 years old", [("occupation", "nurse"), ("age", "36")]),
        ("I like tea but I hate coffee.", [("likes tea", "yes"), ("likes coffee", "no")]),
        ("I don't like fish", [("likes fish", "no")]),
        ("My dog is called Rex. My cat's name is Tom.", [("dog's name", "Rex"), ("cat's name", "Tom")]),
        ("Our version is 3.11.7.", []),
        ("My version is 3.11.8", [("version", "3.11.8")]),
        ("What is my name? Is my name Ada?", []),
        ("If my name is Bob, what then", []),
        ("My wife likes tea.", []),
        ("My problem is the printer. My guess is that it is old.", []),
        ("My password is hunter2. My bank card is 1234. My pin is 0000", []),
        ("my name is", []),
        ("", []),
        ("My name is " + "x" * 81, []),
    ],
)
def test_what_users_state_of_themselves_is_read(text, expected):
    assert [(each.attribute, each.value) for each in extract_statements(text)] == expected


def test_only_what_lasts_is_a_claim():
    claims = {each.attribute: each.is_claim for each in extract_statements("My car is red. My favourite car is red.")}

    assert claims == {"car": False, "favourite car": True}


@pytest.mark.parametrize("text", ["my " * 1_000, "my a " * 400 + "is", "a. " * 700, "I like " + "and i " * 500])
def test_no_text_takes_long_to_read(text):
    began = time.process_time()

    extract_statements(text)

    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("What's the  time?", "what's the time"),
        ("WHAT\u2019S THE TIME", "what's the time"),
        ("the time, please?", "the time please"),
        ("Can you help me", "can you help me"),
        ("Tell me the time.", None),
        ("Whatever.", None),
        ("???", None),
        ("", None),
    ],
)
def test_questions_are_known_by_their_words(text, question):
    assert normalize_question(text) == question


def a_fact(value: str, minute: int, **fields: object) -> Fact:
    said = {
        "subject": "user",
        "attribute": "name",
        "value": value,
        "text": f"My name is {value}.",
        "said_at": NOON + timedelta(minutes=minute),
        "source": f"00000000-0000-7000-8000-{minute:012}",
        "stream_id": "s",
    }
    return Fact.model_validate(said | fields)


def test_in_whatever_order_statements_come_the_same_is_known_and_told_once():
    ada, again, grace = a_fact("Ada", 1), a_fact("Ada", 2), a_fact("Grace", 3)

    for order in permutations([ada, again, grace]):
        values: tuple[Fact, ...] = ()
        told: list[tuple[Fact, Fact] | None] = []
        for each in [*order, *order]:
            learned = learn(values, each)
            values, told = learned.values, [*told, learned.conflict]
        assert [each.value for each in values] == ["Ada", "Grace"]
        pairs = {(pair[0].value, pair[1].value) for pair in told if pair}
        assert pairs == {("Ada", "Grace")}


def test_what_is_older_than_all_that_is_kept_is_not_taken_in():
    values = tuple(a_fact(f"name {minute}", minute) for minute in range(1, MAX_VALUES_PER_FACT + 1))

    assert learn(values, a_fact("older", 0)) == LearnResult(values)


HOMES = (("Paris", 2), ("Rome", 3))


def test_of_a_message_with_several_facts_those_that_still_hold_are_recalled():
    texts = {1: "My name is Ada.", 2: "My name is Grace. My home is Paris.", 3: "My home is Rome."}
    said = {f"00000000-0000-7000-8000-{minute:012}": a_memory(text) for minute, text in texts.items()}
    message = TextMessageEvent(stream_id="s", content=TextContent(text="?"))
    names = (a_fact("Ada", 1), a_fact("Grace", 2))
    homes = tuple(a_fact(place, minute, attribute="home", text=f"My home is {place}.") for place, minute in HOMES)

    recalled = [each.text for each in collect_candidates(said, [names, homes], message)]
    assert recalled == ["My name is Grace.", texts[3]]


def a_memory(text: str) -> MemoryItem:
    return MemoryItem(role="user", text=text, said_at=NOON)
