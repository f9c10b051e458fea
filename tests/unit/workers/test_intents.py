"""What messages ask for, as tables."""

from __future__ import annotations

import pytest

from petiole.workers.llm.rules.intent_rules import ToolPlan, classify_intent, plan_tools


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("Hello, can you help me?", "greeting"),
        ("good morning", "greeting"),
        ("Can you help me?", "help"),
        ("What can you do?", "help"),
        ("Are you a language model?", "identity"),
        ("Who are you?", "identity"),
        ("Thanks a lot!", "thanks"),
        ("Bye", "farewell"),
        ("What is 12 * 7?", "calculation"),
        ("Hello, what is 12 * 7?", "calculation"),
        ("12*7", "calculation"),
        ("What time is it?", "time"),
        ("How many primes below 10000?", "count_primes"),
        ("What did I say about pizza?", "recall"),
        ("Do you remember what 12 * 7 is?", "recall"),
        ("What is my favourite colour?", "recall"),
        ("Why is the sky blue?", "question"),
        ("What is 2+?", "question"),
        ("My favourite colour is green.", "statement"),
        ("My number is 555-1234", "statement"),
        ("What happened on 2026-11-22?", "question"),
        ("Remind me to buy milk", "statement"),
        (" ", "statement"),
    ],
)
def test_a_message_is_understood(text: str, intent: str) -> None:
    assert classify_intent(text).intent == intent


def test_a_rule_that_fits_is_surer_than_a_guess() -> None:
    assert classify_intent("What is 12 * 7?").confidence > classify_intent("Why is the sky blue?").confidence


@pytest.mark.parametrize(
    ("text", "expressions"),
    [
        ("What is 12 * 7?", ["12 * 7"]),
        ("What\u2019s 12 times 7?", ["12 * 7"]),
        ("What's 3/4 of 100?", ["3 / 4 * 100"]),
        ("calculate 12 x 7", ["12 * 7"]),
        ("How much is 1,000 * 3", ["1000 * 3"]),
        ("What is -3 + 5 = ?", ["-3 + 5"]),
        ("compute (2+3)*4.", ["(2+3)*4"]),
        ("What is 2^10?", ["2 ** 10"]),
        ("What is 5 squared?", ["5 ** 2"]),
        ("What is 3 + 4 and 10 / 4?", ["3 + 4", "10 / 4"]),
    ],
)
def test_arithmetic_is_found_in_words(text: str, expressions: list[str]) -> None:
    plans = plan_tools(classify_intent(text), text)

    assert [(plan.tool, plan.arguments["expression"]) for plan in plans] == [("calculator", e) for e in expressions]


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("What did I ask you to calculate?", {"about": "calculate", "said_by": "user"}),
        ("What did I say about pizza?", {"about": "pizza", "said_by": "user"}),
        ("Do you remember what I told you about my cats?", {"about": "my cats", "said_by": "user"}),
        ("What did you tell me about stars?", {"about": "stars", "said_by": "assistant"}),
        ("What were we talking about?", {"about": "", "said_by": "anyone"}),
        ("What did I say earlier?", {"about": "", "said_by": "user"}),
        ("Where do I live?", {"about": "live", "said_by": "user"}),
    ],
)
def test_a_question_about_the_past_is_looked_up(text: str, arguments: dict[str, str]) -> None:
    assert plan_tools(classify_intent(text), text) == (ToolPlan("recall", {**arguments}),)


@pytest.mark.parametrize(
    ("text", "plan"),
    [
        ("What time is it?", ToolPlan("clock")),
        ("What time is it in New York right now?", ToolPlan("clock", {"zone": "New York"})),
        ("How many primes below 10000?", ToolPlan("primes", {"below": 10_000})),
        ("Count the primes up to 10,000", ToolPlan("primes", {"below": 10_001})),
    ],
)
def test_the_clock_and_the_primes_are_planned(text: str, plan: ToolPlan) -> None:
    assert plan_tools(classify_intent(text), text) == (plan,)


@pytest.mark.parametrize(
    "text",
    [
        "What time does the train leave?",
        "What time is it in 2 hours?",
        "What time was it an hour ago?",
        "What day is Christmas?",
        "What's the date of Easter?",
        "What day of the week was 1 January 2000?",
        "What year was Einstein born?",
        "What's the time difference between London and Tokyo?",
    ],
)
def test_a_question_about_another_time_is_not_answered_with_the_present_one(text: str) -> None:
    assert plan_tools(classify_intent(text), text) == ()


@pytest.mark.parametrize(
    "text",
    [
        "What's today's date?", "what year is it", "What day was yesterday?", "What is the date in three weeks?",
        "What day is it today, please?", "What month is it right now?", "what year is it in Japan", "Tell me the time",
        "What's the date tomorrow?", "The time in Rome?", "What will be the date in 3 days?",
    ],
)  # fmt: skip
def test_the_clock_is_asked_for_the_day_the_date_and_the_year(text: str) -> None:
    assert [plan.tool for plan in plan_tools(classify_intent(text), text)] == ["clock"]


@pytest.mark.parametrize(
    ("text", "tools"),
    [
        ("What is 12 * 7 and what time is it in Tokyo?", ["calculator", "clock"]),
        ("Tell me the time and 3+4", ["calculator", "clock"]),
        ("What time is it in Paris and in Tokyo?", ["clock", "clock"]),
    ],
)
def test_one_message_may_take_several_tools(text: str, tools: list[str]) -> None:
    plans = plan_tools(classify_intent(text), text)

    assert [plan.tool for plan in plans] == tools


def test_a_message_without_a_task_takes_no_tools() -> None:
    assert plan_tools(classify_intent("Hello, can you help me?"), "Hello, can you help me?") == ()


def test_a_message_of_any_length_plans_a_few_calls_at_most() -> None:
    text = "What is " + " and ".join(f"{number} + 1" for number in range(100_000))

    assert len(plan_tools(classify_intent(text), text)) == 8
