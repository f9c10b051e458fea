"""A failed delivery is acknowledged only when its dead letter is stored, whatever makes storing it difficult."""

from __future__ import annotations

from typing import Any

import pytest

from petiole.events import Event
from petiole.tasks import Agent, RetryPolicy
from petiole.tasks.settlement import failures, settlement
from tests.support.inside import Inside


@pytest.fixture
def failing(harness) -> list[str]:
    """Serve an agent whose handler fails; returns the list of its runs."""
    agent, runs = Agent("failing"), []

    @agent.on("input.*", retry=RetryPolicy(max_attempts=1), ordered=True)
    def fail(event: Event) -> None:
        runs.append(event.event_id)
        raise RuntimeError("the disk is full")

    harness.add(agent)
    return runs


def fail_first(times: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a function of settlement fail so often, as for a cause that nobody has thought of."""
    function, calls = getattr(failures, name), []

    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) <= times:
            raise UnicodeEncodeError("utf-8", "b\udcff", 1, 2, "surrogates not allowed")
        return function(*arguments, **options)

    monkeypatch.setattr(failures, name, call)


def test_a_letter_that_cannot_be_built_is_stored_with_the_event_and_the_error_alone(
    harness, failing, a_message, monkeypatch, eventually
):
    fail_first(1, "build_dead_letter", monkeypatch)

    harness.publish(a_message("first"))
    letter = harness.expect_dead_letter()
    harness.publish(a_message("second"))

    assert (letter.error_type, letter.error, letter.traceback) == ("RuntimeError", "the disk is full", "")
    assert letter.document["content"]["text"] == "first"
    eventually(lambda: len(failing) == 2, 5, lambda: "the stream stands still")
    assert Inside(harness).unacknowledged() == 0


def test_a_delivery_whose_letter_cannot_be_stored_at_all_is_delivered_again(harness, failing, a_message, monkeypatch):
    fail_first(1, "build_dead_letter", monkeypatch)
    fail_first(1, "build_bare_dead_letter", monkeypatch)

    harness.publish(a_message("first"))

    letter = harness.expect_dead_letter(within=10)
    assert letter.error == "the disk is full"
    assert len(failing) == 2


def test_a_retry_that_cannot_be_built_is_a_dead_letter(harness, a_message, monkeypatch):
    fail_first(1, "_build_retry", monkeypatch)
    agent = Agent("failing")

    @agent.on("input.*")
    def fail(event: Event) -> None:
        raise RuntimeError("the disk is full")

    harness.add(agent)

    harness.publish(a_message("first"))

    letter = harness.expect_dead_letter()
    assert (letter.error, len(letter.attempts)) == ("the disk is full", 1)


def test_an_error_outside_the_handler_is_a_dead_letter_with_its_name(harness, failing, a_message, monkeypatch):
    def begin(*_: object, **__: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(settlement, "begin", begin)

    harness.publish(a_message("first"))

    assert harness.expect_dead_letter().error_type == "MemoryError"
    assert failing == []
