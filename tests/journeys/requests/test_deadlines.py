"""Deadlines, and what becomes of answers that come late, twice, or from somebody else."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from celery.exceptions import TimeoutError as CeleryTimeoutError

from petiole.events import Event, MessageEvent, RequestEvent, ResponseSuccessEvent, responses
from petiole.events.catalog.request import RequestContent, ResponseUnmatchedEvent
from petiole.events.errors import RequestTimedOut, UsageError
from petiole.tasks import NO_REPLY_YET, Agent, PendingResponse, publish, request
from petiole.tasks.settings import Settings
from petiole.tasks.testing import EventTestHarness
from tests.journeys.requests.service import a_message_of, a_silent_answer, answer
from tests.support.errors import has_code
from tests.support.inside import Inside


def test_a_failing_answer_is_tried_once_and_kept_as_a_dead_letter(asked):
    asked.request("break", responder="data_service").get()

    letter = asked.expect_dead_letter()
    assert (letter.subscription, len(letter.attempts)) == ("data_service.break_down", 1)


def test_a_second_request_under_an_id_that_is_waited_for_is_refused(harness):
    agent = Agent("slow")

    @agent.answers("ask")
    def ask() -> object:
        return NO_REPLY_YET

    harness.add(agent)
    known = str(uuid4())
    content = RequestContent(request_type="ask", requester="web", responder="slow", request_id=known)
    first = RequestEvent(content=content)
    harness.request(first, timeout=30)

    with pytest.raises(UsageError, check=has_code("duplicate_request"), match=known):
        harness.request(RequestEvent(content=content), timeout=30)
    assert Inside(harness).pending_requests() == 1
    harness.requester(RequestEvent(content=content.model_copy(update={"request_id": str(uuid4())}))).forget()
    assert Inside(harness).pending_requests() == 1


def test_a_request_event_that_was_made_before_is_refused_and_leaves_nothing(asked):
    event = RequestEvent(content=RequestContent(request_type="echo", requester="web", responder="data_service"))
    asked.request(event).get()

    with pytest.raises(UsageError, check=has_code("duplicate_request")):
        asked.request(event)

    assert Inside(asked).pending_requests() == 0


def test_the_first_answer_wins_and_the_second_is_counted_and_told(harness):
    agent = Agent("twice")

    @agent.answers("ask")
    def ask(event: RequestEvent) -> ResponseSuccessEvent:
        return answer(event, "first")

    @agent.on("request.made", where={"content.responder": "twice"})
    def ask_again(event: RequestEvent) -> ResponseSuccessEvent:
        return answer(event, "second")

    harness.add(agent)

    response = harness.request("ask", responder="twice").get()

    late = harness.expect("response.unmatched")
    assert isinstance(late, ResponseUnmatchedEvent)
    assert response.value in {"first", "second"}
    assert late.content.reason == "duplicate"
    assert Inside(harness).counts()["replies_unmatched"] == 1


def test_an_answer_of_somebody_else_is_counted_and_not_returned(harness):
    agent, impostor = Agent("slow"), Agent("impostor")
    agent.answers("ask")(a_silent_answer)

    @impostor.on("request.made")
    def ask(event: RequestEvent) -> list[ResponseSuccessEvent]:
        return [answer(event, "mine", responder="impostor")]

    harness.add(agent)
    harness.add(impostor)

    with pytest.raises(RequestTimedOut):
        harness.request("ask", responder="slow", timeout=30).get()

    late = harness.expect("response.unmatched")
    assert isinstance(late, ResponseUnmatchedEvent)
    assert (late.content.reason, late.content.responder) == ("wrong_responder", "impostor")
    assert Inside(harness).counts()["replies_unmatched"] == 1
    assert Inside(harness).pending_requests() == 0


def test_an_answer_without_a_request_is_counted(harness):
    content = {"request_type": "ask", "requester": "web", "responder": "users", "parameters": {"response": 1}}

    harness.publish(ResponseSuccessEvent.model_validate({"content": content}))

    late = harness.expect("response.unmatched")
    assert isinstance(late, ResponseUnmatchedEvent)
    assert late.content.reason == "late"


def test_who_answers_later_publishes_the_answer(harness):
    agent, waiting = Agent("slow"), []

    @agent.answers("ask")
    def ask(event: RequestEvent) -> object:
        waiting.append(event)
        return NO_REPLY_YET

    @agent.on("message.found")
    def found(event: MessageEvent) -> Event:
        return responses.build_success(waiting[0], "at last")

    harness.add(agent)
    pending: PendingResponse[str] = harness.requester("ask", responder="slow", timeout=5)
    harness.send_through(a_message_of("message.found"))

    assert pending.get().value == "at last"


def test_the_deadline_travels_over_hops_and_only_shrinks(harness):
    deadlines: dict[str, datetime | None] = {}
    one, two, three = Agent("one"), Agent("two"), Agent("three")

    @one.answers("first")
    def first(event: RequestEvent) -> object:
        deadlines["first"] = event.expires_at
        request("second", responder="two", timeout=600)
        publish(event.caused(MessageEvent, event_type="message.aside"))
        return 1

    @two.answers("second")
    def second(event: RequestEvent) -> object:
        deadlines["second"] = event.expires_at
        request("third", responder="three", timeout=1)
        return 2

    @three.answers("third")
    def third(event: RequestEvent) -> object:
        deadlines["third"] = event.expires_at
        return 3

    @three.on("message.aside")
    def aside(event: Event) -> None:
        deadlines["aside"] = event.expires_at

    for agent in (one, two, three):
        harness.add(agent)
    began = datetime.now(UTC)
    harness.request("first", responder="one", timeout=20).get()
    harness.send_through(a_message_of("message.end"))

    seconds = {name: (at - began).total_seconds() for name, at in deadlines.items() if at is not None}
    assert 19 < seconds["first"] < 40
    assert seconds["second"] == seconds["aside"] == seconds["first"]
    assert seconds["third"] < 15


def test_a_request_without_a_timeout_has_that_of_the_settings():
    settings = Settings(request_timeout_s=0.5)
    slow = Agent("slow")
    slow.answers("ask")(a_silent_answer)
    with EventTestHarness([slow], settings=settings) as harness:
        pending: PendingResponse[object] = harness.request("ask", responder="slow")
        made = pending.request

    assert made.expires_at is not None
    assert 0.3 < (made.expires_at - made.timestamp).total_seconds() < 0.7


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), True, "5", 3601, timedelta(days=1)], ids=repr)
def test_a_timeout_that_cannot_be_is_refused(asked, timeout):
    with pytest.raises(UsageError, check=has_code("invalid_request"), match="give seconds above 0"):
        asked.request("echo", responder="data_service", timeout=timeout)


def test_a_loop_that_gives_up_leaves_nothing(harness, eventually):
    slow = Agent("slow")
    slow.answers("ask")(a_silent_answer)
    harness.add(slow)
    requester = harness.requester

    async def give_up() -> None:
        with pytest.raises(RequestTimedOut):
            await requester.aio("ask", responder="slow", timeout=0.2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(requester.aio("ask", responder="slow", timeout=30), 0.3)
        assert (await requester.aio("ask", responder="nobody")).error_type == "responder_not_found"

    asyncio.run(give_up())

    eventually(lambda: Inside(harness).pending_requests() == 0, 5)


def test_celery_s_timeout_error_is_what_a_timeout_is(asked):
    slow = Agent("slow")
    slow.answers("ask")(a_silent_answer)
    asked.add(slow)

    with pytest.raises(CeleryTimeoutError) as overdue:
        asked.request("ask", responder="slow", timeout=30).get()

    assert isinstance(overdue.value, RequestTimedOut)
