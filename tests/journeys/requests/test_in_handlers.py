"""Agents that ask from within a handler, and go on in a handler of the answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from petiole.events import Event, MessageEvent, RequestEvent, ResponseFailureEvent, ResponseSuccessEvent
from petiole.tasks import Agent, RetryPolicy, request
from tests.journeys.requests.service import a_message_of, a_silent_answer
from tests.support.inside import Inside


def asking() -> tuple[Agent, list[Event]]:
    """Make an agent that asks from within a handler, and goes on when it hears the answer."""
    agent, heard = Agent("web"), []

    @agent.on("message.ask")
    def ask(event: MessageEvent) -> None:
        request("echo", responder="data_service", value="from a handler")

    @agent.on("response.succeeded", "response.failed", where={"content.requester": "web"})
    def go_on(event: Event) -> None:
        heard.append(event)

    return agent, heard


def test_an_agent_asks_in_a_handler_and_goes_on_in_a_handler_of_the_answer(asked, a_message):
    agent, heard = asking()
    asked.add(agent)

    asked.send_through(a_message_of("message.ask"))

    (answered,) = heard
    made = next(event for event in asked.published_events() if isinstance(event, RequestEvent))
    assert isinstance(answered, ResponseSuccessEvent)
    assert answered.content.parameters == {"response": "from a handler"}
    assert made.content.requester == "web"
    assert made.stream_id == answered.stream_id == "s"
    assert Inside(asked).pending_requests() == 0
    assert "replies_unmatched" not in Inside(asked).counts()


def test_an_agent_that_asks_in_a_handler_hears_of_it_when_nobody_answers(harness):
    agent, heard = asking()
    slow = Agent("data_service")
    slow.answers("echo")(a_silent_answer)
    harness.add(agent)
    harness.add(slow)

    harness.send_through(a_message_of("message.ask"))

    (failed,) = heard
    assert isinstance(failed, ResponseFailureEvent)
    assert failed.content.error_type == "RequestTimedOut"
    assert Inside(harness).pending_requests() == 0
    assert "replies_unmatched" not in Inside(harness).counts()


def test_an_agent_that_asks_nobody_in_a_handler_hears_of_it(harness):
    agent, heard = asking()
    harness.add(agent)

    harness.send_through(a_message_of("message.ask"))

    (failed,) = heard
    assert isinstance(failed, ResponseFailureEvent)
    assert failed.content.error_type == "responder_not_found"


def test_waiting_in_a_handler_is_refused_and_says_what_to_do_instead(harness):
    agent = Agent("a")

    @agent.on("message.get", retry=RetryPolicy(max_attempts=1))
    def wait(event: Event) -> None:
        request("ask", responder="b").get()

    @agent.on("message.aio", retry=RetryPolicy(max_attempts=1))
    async def wait_too(event: Event) -> None:
        await request.aio("ask", responder="b")

    harness.add(agent)
    for topic in ("message.get", "message.aio"):
        harness.send_through(a_message_of(topic))

    letters = harness.dead_letters()
    assert [letter.error_type for letter in letters] == ["waiting_in_handler", "waiting_in_handler"]
    assert all("continue in a handler of the reply" in letter.error for letter in letters)


def test_an_agent_asks_for_no_longer_than_the_event_at_hand_is_of_use(asked):
    agent, _ = asking()
    asked.add(agent)
    soon = datetime.now(UTC) + timedelta(seconds=8)

    asked.send_through(a_message_of("message.ask").model_copy(update={"expires_at": soon}))

    made = next(event for event in asked.published_events() if isinstance(event, RequestEvent))
    assert made.expires_at == soon
