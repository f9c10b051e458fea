"""Requests and their answers: one asks, one answers, and others may listen."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import pytest
from celery.result import AsyncResult, ResultSet

from petiole.events import Event, RequestEvent, ResponseSuccessEvent
from petiole.events.catalog.request import RequestContent
from petiole.events.errors import Permanent, UsageError
from petiole.tasks import Agent, Context, RetryPolicy, publish
from tests.journeys.requests.service import User, a_data_service, a_message_of, a_silent_answer, topics
from tests.support.errors import has_code
from tests.support.inside import Inside


def test_a_request_is_answered_with_what_the_function_returns(asked):
    pending = asked.request("get_user_data", responder="data_service", user_id="12345")

    response = pending.get()

    assert isinstance(pending, AsyncResult)
    assert (response.ok, response.error) == (True, None)
    assert response.value == {"user_id": "12345", "name": "Ada", "born": None}
    assert Inside(asked).pending_requests() == 0


def test_an_answer_is_read_as_the_model_that_is_asked_for(asked):
    born = datetime(1815, 12, 10, tzinfo=UTC)

    pending = asked.request("get_user_data", responder="data_service", returns=User, user_id="1", born=born.isoformat())

    assert pending.get().value == User(user_id="1", name="Ada", born=born)


def test_a_function_takes_one_model_of_the_parameters_and_the_context(asked):
    assert asked.request("query", responder="data_service", user_id="7").get().value == "7 by data_service.query"


@pytest.mark.parametrize("value", [None, False, 0, "", [], {"a": [1, 2.5, "x"]}], ids=repr)
def test_every_value_is_an_answer_also_those_that_are_nothing(asked, value):
    response = asked.request("echo", responder="data_service", value=value).get()

    assert response.ok
    assert response.value == value
    assert type(response.value) is type(value)


def test_a_request_event_says_itself_who_asks_whom(asked):
    content = RequestContent(request_type="echo", requester="web", responder="data_service", parameters={"value": 5})
    event = RequestEvent(stream_id="a-stream", content=content)

    response = asked.request(event).get()

    assert response.value == 5
    assert response.request_id == content.request_id
    with pytest.raises(UsageError, check=has_code("invalid_request"), match="give no other arguments"):
        asked.request(event, responder="data_service")


def test_request_and_answer_are_events_of_one_flow_and_the_one_causes_the_other(asked):
    asked.request("echo", responder="data_service", value=1).get()

    made, answered = asked.published_events()

    assert (made.event_type, answered.event_type) == ("request.made", "response.succeeded")
    assert isinstance(made, RequestEvent)
    assert isinstance(answered, ResponseSuccessEvent)
    assert answered.correlation_id == made.correlation_id
    assert answered.causation_id == made.event_id
    assert answered.path == ("data_service",)
    shared = {"request_type", "requester", "responder", "request_id"}
    assert answered.content.model_dump(include=shared) == made.content.model_dump(include=shared)


@pytest.mark.parametrize(
    ("what", "responder", "parameters", "error_type", "error"),
    [
        ("fail", "data_service", {}, "KeyError", "no such user"),
        ("nothing", "data_service", {}, "handler_not_found", "has no handler for that request type"),
        ("echo", "nobody", {}, "responder_not_found", "no agent 'nobody' is registered"),
        ("get_user_data", "data_service", {}, "invalid_parameters", "'user_id': field required"),
        ("get_user_data", "data_service", {"user_id": 5}, "invalid_parameters", "valid string"),
        ("get_user_data", "data_service", {"user_id": "1", "x": 1}, "invalid_parameters", "parameter 'x'"),
    ],
)
def test_what_cannot_be_answered_is_told_at_once(asked, what, responder, parameters, error_type, error):  # noqa: PLR0917
    asked.publish(a_message_of("message.warm_up"))
    began = time.monotonic()

    pending = asked.request(what, responder=responder, timeout=30, **parameters)
    response = pending.get()

    assert time.monotonic() - began < 15, "was told at the deadline"
    assert (response.ok, response.value, response.error_type) == (False, None, error_type)
    assert error in str(response.error)
    assert (pending.state, pending.successful(), pending.failed()) == ("FAILURE", False, True)
    assert topics(asked).count("response.failed") == 1
    assert Inside(asked).pending_requests() == 0


def test_an_answer_that_is_tried_again_is_one_answer(harness):
    agent, runs = Agent("shaky"), []

    @agent.answers("ask", retry=RetryPolicy(max_attempts=3))
    def ask() -> int:
        runs.append(1)
        if len(runs) < 3:
            raise RuntimeError("not yet")
        return len(runs)

    harness.add(agent)

    assert harness.request("ask", responder="shaky", timeout=30).get().value == 3
    assert [topic for topic in topics(harness) if topic.startswith("response.")] == ["response.succeeded"]


def test_only_the_responder_gets_a_request_and_others_may_listen(harness, eventually):
    ran = []
    for name in ("one", "two", "three"):
        agent = Agent(name)

        @agent.answers("who")
        def who(event: RequestEvent, context: Context) -> str:
            ran.append(context.subscription.agent)
            return context.subscription.agent

        harness.add(agent)
    heard: list[str] = []
    metrics = Agent("metrics")

    @metrics.on("request.*", "response.*")
    def listen(event: Event) -> None:
        heard.append(event.event_type)

    harness.add(metrics)

    assert harness.request("who", responder="two").get().value == "two"
    assert harness.request("why", responder="metrics").get().error_type == "handler_not_found"
    assert ran == ["two"]
    eventually(lambda: heard[:2] == ["request.made", "response.succeeded"], 5, lambda: str(heard))


def test_a_listener_that_fails_is_no_answer(harness):
    agent = a_data_service()

    @agent.on("request.made", retry=RetryPolicy(max_attempts=1))
    def listen(event: RequestEvent) -> None:
        raise RuntimeError("listening failed")

    harness.add(agent)

    assert harness.request("echo", responder="data_service", value=3).get().value == 3
    assert topics(harness).count("response.failed") == 0


def test_a_request_to_nobody_in_particular_is_refused(asked):
    with pytest.raises(UsageError, check=has_code("invalid_request"), match="responder is missing"):
        asked.request("echo")


def test_two_functions_for_one_request_type_are_refused():
    agent = a_data_service()

    with pytest.raises(UsageError, check=has_code("duplicate_subscription"), match=r"data_service\.echo"):
        agent.answers("echo")(a_silent_answer)


def test_a_function_that_cannot_be_filled_is_refused_where_it_is_written():
    agent = Agent("a")

    def several(*names: str) -> None: ...

    def steps() -> object:
        yield 1

    with pytest.raises(UsageError, match="declare each request parameter by name"):
        agent.answers("several")(several)
    with pytest.raises(UsageError, match="one reply"):
        agent.answers("steps")(steps)


def test_a_loop_asks_many_at_once_and_a_second_loop_again(asked):
    requester = asked.requester

    async def ask_all() -> list[object]:
        many = [requester.aio("echo", responder="data_service", value=number) for number in range(30)]
        return [response.value for response in await asyncio.gather(*many)]

    for _ in range(2):
        assert asyncio.run(ask_all()) == list(range(30))
    assert Inside(asked).pending_requests() == 0


def test_a_large_answer_reaches_who_waits(asked):
    large = "x" * 200_000

    assert asked.request("echo", responder="data_service", value=large).get().value == large

    async def ask() -> object:
        return (await asked.requester.aio("echo", responder="data_service", value=large)).value

    assert asyncio.run(ask()) == large


def test_results_can_be_waited_for_together(asked):
    results = ResultSet([asked.request("echo", responder="data_service", value=number) for number in range(3)])

    assert [response.value for response in results.get(disable_sync_subtasks=False)] == [0, 1, 2]


class Refused(Permanent):
    """What a responder raises to say no."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [(LookupError("no such user"), "LookupError"), (Refused("not yours"), "Refused"), (None, "invalid_parameters")],
)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_failure_of_the_request_itself_is_an_answer_and_no_dead_letter(harness, error, expected, is_async):
    agent, runs = Agent("service"), []

    def find(number: int) -> int:
        runs.append(number)
        publish(a_message_of("message.found"))
        raise error

    async def find_async(number: int) -> int:
        return find(number)

    agent.answers("find", retry=RetryPolicy(max_attempts=3))(find_async if is_async else find)
    harness.add(agent)

    parameters = {} if error is None else {"number": 1}
    response = harness.request("find", responder="service", timeout=30, **parameters).get()

    assert (response.ok, response.error_type) == (False, expected)
    assert len(runs) == (0 if error is None else 1)
    assert topics(harness) == ["request.made", "response.failed"]
    assert harness.dead_letters() == []


def test_any_other_error_of_a_responder_is_a_dead_letter_too(harness):
    agent = Agent("service")

    @agent.answers("find")
    def find() -> int:
        raise ValueError("b\udcff")

    harness.add(agent)

    response = harness.request("find", responder="service", timeout=30).get()

    assert (response.error_type, response.error) == ("ValueError", "b\\udcff")
    assert harness.expect_dead_letter().error_type == "ValueError"
