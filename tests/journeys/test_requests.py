"""Requests: one asks, one answers; with the harness, and with real workers, where deadlines and deaths are real."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
import redis
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import AsyncResult, ResultSet
from pydantic import BaseModel

from petiole.events import (
    Event,
    MessageEvent,
    ParametersContent,
    RequestEvent,
    ResponseFailureEvent,
    ResponseSuccessEvent,
    responses,
)
from petiole.events.catalog.request import RequestContent, ResponseUnmatchedEvent
from petiole.events.errors import RequestTimedOut, UsageError
from petiole.tasks import NO_REPLY_YET, Agent, Context, PendingResponse, RetryPolicy, publish, request
from petiole.tasks.settings import Settings
from petiole.tasks.testing import EventTestHarness
from tests.support.errors import has_code

# Harness


class User(BaseModel):
    user_id: str
    name: str
    born: datetime | None = None


class Query(BaseModel):
    user_id: str


def a_data_service() -> Agent:
    agent = Agent("data_service")

    @agent.answers("get_user_data")
    def get_user_data(user_id: str, born: datetime | None = None) -> User:
        return User(user_id=user_id, name="Ada", born=born)

    @agent.answers("echo")
    def echo(event: RequestEvent) -> object:
        return event.content.parameters.get("value")

    @agent.answers("query")
    async def query(query: Query, context: Context) -> str:
        await asyncio.sleep(0)
        return f"{query.user_id} by {context.subscription.name}"

    @agent.answers("fail")
    def fail() -> None:
        raise KeyError("no such user")

    return agent


@pytest.fixture
def asked(harness: EventTestHarness) -> EventTestHarness:
    harness.add(a_data_service())
    return harness


def a_message_of(topic: str) -> MessageEvent:
    return MessageEvent(event_type=topic, stream_id="s", content=ParametersContent())


def topics(harness: EventTestHarness) -> list[str]:
    return [event.event_type for event in harness.published_events()]


def test_a_request_is_answered_with_what_the_function_returns(asked):
    pending = asked.request("get_user_data", responder="data_service", user_id="12345")

    response = pending.get()

    assert isinstance(pending, AsyncResult)
    assert (response.ok, response.error) == (True, None)
    assert response.value == {"user_id": "12345", "name": "Ada", "born": None}
    assert asked.app.stores.requests.count() == 0


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
    with pytest.raises(UsageError, check=has_code("invalid_request"), match="give it alone"):
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
        ("nothing", "data_service", {}, "handler_not_found", "answers none of that type"),
        ("echo", "nobody", {}, "responder_not_found", "there is no agent 'nobody'"),
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

    assert time.monotonic() - began < 1
    assert (response.ok, response.value, response.error_type) == (False, None, error_type)
    assert error in str(response.error)
    assert (pending.state, pending.successful(), pending.failed()) == ("FAILURE", False, True)
    assert topics(asked).count("response.failed") == 1
    assert asked.app.stores.requests.count() == 0


def test_a_failing_answer_is_tried_once_and_kept_as_a_dead_letter(asked):
    asked.request("fail", responder="data_service").get()

    letter = asked.expect_dead_letter()
    assert (letter.subscription, len(letter.attempts)) == ("data_service.fail", 1)


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
    assert harness.bus.stores.requests.count() == 1
    harness.requester(RequestEvent(content=content.model_copy(update={"request_id": str(uuid4())}))).forget()
    assert harness.bus.stores.requests.count() == 1


def test_a_request_event_that_was_made_before_is_refused_and_leaves_nothing(asked):
    event = RequestEvent(content=RequestContent(request_type="echo", requester="web", responder="data_service"))
    asked.request(event).get()

    with pytest.raises(UsageError, check=has_code("duplicate_request")):
        asked.request(event)

    assert asked.app.stores.requests.count() == 0


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
    assert harness.bus.stores.counters.all()["replies_unmatched"] == 1


def answer(event: RequestEvent, value: str, **instead: str) -> ResponseSuccessEvent:
    said = event.content.model_dump(exclude={"parameters"}) | instead
    return event.caused(ResponseSuccessEvent, content=said | {"parameters": {"response": value}})


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
    assert harness.bus.stores.counters.all()["replies_unmatched"] == 1
    assert harness.bus.stores.requests.count() == 0


def a_silent_answer(event: RequestEvent) -> object:
    return NO_REPLY_YET


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
    assert asked.app.stores.requests.count() == 0
    assert "replies_unmatched" not in asked.app.stores.counters.all()


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
    assert harness.bus.stores.requests.count() == 0
    assert "replies_unmatched" not in harness.bus.stores.counters.all()


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
    assert all("go on in a handler of the answer" in letter.error for letter in letters)


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
    assert 19 < seconds["first"] < 21
    assert seconds["second"] == seconds["aside"] == seconds["first"]
    assert seconds["third"] < 5


def test_an_agent_asks_for_no_longer_than_the_event_at_hand_is_of_use(asked):
    agent, _ = asking()
    asked.add(agent)
    soon = datetime.now(UTC) + timedelta(seconds=8)

    asked.send_through(a_message_of("message.ask").model_copy(update={"expires_at": soon}))

    made = next(event for event in asked.published_events() if isinstance(event, RequestEvent))
    assert made.expires_at == soon


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

    with pytest.raises(UsageError, match="name each parameter"):
        agent.answers("several")(several)
    with pytest.raises(UsageError, match="one answer"):
        agent.answers("steps")(steps)


def test_a_loop_asks_many_at_once_and_a_second_loop_again(asked):
    requester = asked.requester

    async def ask_all() -> list[object]:
        many = [requester.aio("echo", responder="data_service", value=number) for number in range(30)]
        return [response.value for response in await asyncio.gather(*many)]

    for _ in range(2):
        assert asyncio.run(ask_all()) == list(range(30))
    assert asked.app.stores.requests.count() == 0


def test_a_loop_that_gives_up_leaves_nothing(harness):
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

    deadline = time.monotonic() + 5
    while harness.bus.stores.requests.count() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert harness.bus.stores.requests.count() == 0


def test_a_large_answer_reaches_who_waits(asked):
    large = "x" * 200_000

    assert asked.request("echo", responder="data_service", value=large).get().value == large

    async def ask() -> object:
        return (await asked.requester.aio("echo", responder="data_service", value=large)).value

    assert asyncio.run(ask()) == large


def test_results_can_be_waited_for_together(asked):
    results = ResultSet([asked.request("echo", responder="data_service", value=number) for number in range(3)])

    assert [response.value for response in results.get(disable_sync_subtasks=False)] == [0, 1, 2]


# Real workers

SERVICE = '''
import os
import time
import redis
from petiole.events import Event, RequestEvent
from petiole.tasks import Agent, RetryPolicy

client = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"], decode_responses=True)
data = Agent("data_service")

@data.answers("nth")
def nth(number: int, of: int) -> int:
    """Answer in reverse order: once all others of higher numbers have been answered."""
    deadline = time.monotonic() + 50
    while int(client.get("answered") or 0) < of - 1 - number and time.monotonic() < deadline:
        time.sleep(0.005)
    client.incr("answered")
    return number * number

@data.answers("echo")
def echo(value: object = None) -> object:
    return value

@data.answers("slow")
def slow(seconds: float) -> str:
    client.rpush("slow_runs", os.getpid())
    time.sleep(seconds)
    return "slow"

@data.answers("fail")
def fail() -> None:
    raise LookupError("no such user")

@data.answers("die")
def die() -> None:
    client.incr("deaths")
    os.kill(os.getpid(), 9)
'''


@pytest.fixture
def service(node):
    node.environment["PETIOLE_AGENTS"] = "service"
    node.module("service", SERVICE)
    return node


@pytest.fixture
def client(clean_broker_url):
    return redis.Redis.from_url(clean_broker_url, decode_responses=True)


def ask(node, code):
    """Run code that asks, in a service of its own; returns what it printed, as JSON."""
    said = node.run(
        "import json, time, sys\nfrom tasks import request\nfrom petiole.tasks.bus import default_bus\n" + code
    )
    return json.loads(said.splitlines()[-1])


def test_100_requests_answered_in_reverse_order_get_their_own_answers(service, client):
    service.worker("one", "--pool", "threads", "-c", "100", "--prefetch-multiplier", "1")

    said = ask(
        service,
        """
pending = [request("nth", responder="data_service", timeout=50, number=n, of=100) for n in range(100)]
values = [each.get().value for each in pending]
after_100 = bus.stores.requests.count()
print(json.dumps([values == [n * n for n in range(100)], after_100]))
""",
    )

    assert said == [True, 0]
    assert client.zcard("petiole:requests") == 0
    assert "replies_unmatched" not in client.hgetall("petiole:counters")


@pytest.mark.long
def test_100_failures_and_100_timeouts_leave_nothing_pending(service, client):
    service.worker("one", "--pool", "threads", "-c", "4")

    said = ask(
        service,
        """
from petiole.events.errors import RequestTimedOut
failures = [request("fail", responder="data_service", timeout=30) for _ in range(100)]
kinds = {each.get().error_type for each in failures}
after_failures = bus.stores.requests.count()
bus.app.control.cancel_consumer("data_service")
time.sleep(0.5)
timeouts, overdue = [request("echo", responder="data_service", timeout=0.5) for _ in range(100)], 0
for each in timeouts:
    try:
        each.get()
    except RequestTimedOut:
        overdue += 1
print(json.dumps([sorted(kinds), after_failures, overdue, bus.stores.requests.count()]))
""",
    )

    assert said == [["LookupError"], 0, 100, 0]
    assert client.zcard("petiole:requests") == 0
    assert list(client.scan_iter("petiole:requests:*:reply")) == []


def test_failures_are_told_within_a_second_with_type_and_message(service):
    service.worker("one")

    said = ask(
        service,
        """
told = []
request("echo", responder="data_service").get()
for what, responder in (("fail", "data_service"), ("nothing", "data_service"), ("echo", "nobody")):
    began = time.monotonic()
    response = request(what, responder=responder, timeout=30).get()
    told.append([response.error_type, response.error, time.monotonic() - began < 1])
print(json.dumps(told))
""",
    )

    assert said[0] == ["LookupError", "no such user", True]
    assert [(kind, in_time) for kind, _, in_time in said[1:]] == [
        ("handler_not_found", True),
        ("responder_not_found", True),
    ]


def test_a_stopped_worker_is_a_timeout_at_the_deadline_and_does_not_run_the_request_later(service, client, eventually):
    worker = service.worker("one")
    worker.terminate()
    worker.wait(timeout=20)

    said = ask(
        service,
        """
from celery.exceptions import TimeoutError
began = time.monotonic()
try:
    request("slow", responder="data_service", seconds=0, timeout=2).get()
except TimeoutError as error:
    print(json.dumps([time.monotonic() - began, str(error), bus.stores.requests.count()]))
""",
    )
    service.worker("two")
    eventually(lambda: client.llen("data_service") == 0 and client.hlen("unacked") == 0, 20, service.logs)

    took_s, error, left = said
    assert 1.7 < took_s < 2.3
    assert "'data_service' gave no answer within 2.0 s" in error
    assert left == 0
    assert client.llen("slow_runs") == 0
    assert "replies_unmatched" not in client.hgetall("petiole:counters")


def test_an_answer_after_the_deadline_is_counted_and_told_and_the_next_request_is_unaffected(
    service, client, eventually
):
    service.worker("one")

    said = ask(
        service,
        """
from petiole.events.errors import RequestTimedOut
request("echo", responder="data_service", value=1).get()
try:
    request("slow", responder="data_service", seconds=1.5, timeout=0.6).get()
    print("no timeout")
except RequestTimedOut:
    print(json.dumps(request("echo", responder="data_service", value="next").get().value))
""",
    )

    assert said == "next"
    eventually(lambda: client.hget("petiole:counters", "replies_unmatched") == "1", 10, service.logs)
    late = json.loads(service.run(HISTORY.format(pattern="response.unmatched")))
    assert [each["content"]["reason"] for each in late] == ["late"]


HISTORY = """
import json
from petiole.tasks.bus import default_bus
from petiole.tasks.stores.history import Selection
found = bus.stores.history.select(Selection(pattern="{pattern}"))
print(json.dumps([each.document for each in found]))
"""


@pytest.mark.long
def test_a_request_that_kills_its_workers_is_answered_by_its_dead_letter(service, client):
    service.environment["PETIOLE_MAX_DELIVERY_CRASHES"] = "2"
    workers = [service.worker(name) for name in ("one", "two", "three")]

    said = ask(service, 'print(json.dumps(request("die", responder="data_service", timeout=40).get().error_type))')

    assert said == "DeliveryCrashed"
    assert client.get("deaths") == "2"
    assert sorted(worker.poll() is None for worker in workers) == [False, False, True]
    answers = json.loads(service.run(HISTORY.format(pattern="response.*")))
    assert [each["event_type"] for each in answers] == ["response.failed"]


def test_a_process_that_ends_lets_those_go_who_wait_in_it(service):
    service.worker("one")

    said = ask(
        service,
        """
import threading
def wait():
    began = time.monotonic()
    response = request("slow", responder="data_service", seconds=5, timeout=30).get()
    print(json.dumps([response.error_type, time.monotonic() - began < 2.5, bus.stores.requests.count()]))
threading.Thread(target=wait).start()
time.sleep(1)
""",
    )

    assert said == ["requester_stopped", True, 0]


def test_who_is_told_to_stop_waiting_does_so_within_a_second(service):
    service.worker("one")

    said = ask(
        service,
        """
import asyncio, threading
kinds = []
def wait():
    kinds.append(request("slow", responder="data_service", seconds=3, timeout=30).get().error_type)
async def wait_too():
    kinds.append((await request.aio("slow", responder="data_service", seconds=3, timeout=30)).error_type)
threads = [threading.Thread(target=wait), threading.Thread(target=lambda: asyncio.run(wait_too()))]
[each.start() for each in threads]
time.sleep(1)
began = time.monotonic()
request.stop_waiting()
[each.join() for each in threads]
print(json.dumps([kinds, time.monotonic() - began < 1]))
""",
    )

    assert said == [["requester_stopped", "requester_stopped"], True]


def test_who_waits_is_let_go_within_a_second_where_the_system_is_shut_down(service):
    service.worker("one")

    said = ask(
        service,
        """
import asyncio, threading
from petiole.tasks.operations.error_channel import shut_down
kinds = []
def wait():
    kinds.append(request("slow", responder="data_service", seconds=20, timeout=30).get().error_type)
async def wait_too():
    kinds.append((await request.aio("slow", responder="data_service", seconds=20, timeout=30)).error_type)
threads = [threading.Thread(target=wait), threading.Thread(target=lambda: asyncio.run(wait_too()))]
[each.start() for each in threads]
time.sleep(1)
began = time.monotonic()
shut_down(bus, by="an operator")
[each.join() for each in threads]
print(json.dumps([kinds, time.monotonic() - began < 1.5]))
""",
    )

    assert said == [["requester_stopped", "requester_stopped"], True]


def test_a_requester_that_dies_leaves_an_entry_that_expires(service, client, eventually):
    service.worker("one")
    dying = service.start(
        "timeit",
        "-n",
        "1",
        "-r",
        "1",
        "-s",
        "from tasks import request",
        "request('slow', responder='data_service', seconds=1, timeout=3).get()",
    )
    eventually(lambda: client.zcard("petiole:requests") == 1, 10, service.logs)
    dying.kill()

    said = ask(service, 'print(json.dumps(request("echo", responder="data_service", value=1, timeout=20).get().value))')

    assert said == 1
    assert -1 not in {client.pttl(key) for key in client.scan_iter("petiole:requests:*")}
    eventually(lambda: int(client.zcount("petiole:requests", time.time() * 1_000, "+inf")) == 0, 10)


def test_a_broker_that_is_away_is_told_and_nothing_is_pending(service):
    said = service.run("""
from petiole.events.errors import BrokerUnavailable
from petiole.tasks import request
from petiole.tasks.bus import default_bus
bus.app.conf.broker_url = "redis://127.0.0.1:1/0"
try:
    request("echo", responder="data_service", timeout=5)
except BrokerUnavailable:
    print("told")
""")

    assert said.strip() == "told"


def test_a_loop_asks_200_at_once_over_one_connection_and_without_a_thread_for_each(service):
    service.worker("one", "--pool", "threads", "-c", "4")

    said = ask(
        service,
        """
import asyncio, threading
async def ask_all():
    many = [request.aio("echo", responder="data_service", value=n, timeout=50) for n in range(200)]
    tasks = [asyncio.ensure_future(each) for each in many]
    threads = 0
    while not all(each.done() for each in tasks):
        threads = max(threads, threading.active_count())
        await asyncio.sleep(0.005)
    return [each.result().value for each in tasks] == list(range(200)), threads
print(json.dumps([*asyncio.run(ask_all()), bus.stores.requests.count()]))
""",
    )

    right, threads, left = said
    assert (right, left) == (True, 0)
    assert threads <= 1 + 4


def test_a_second_request_under_an_id_that_is_on_its_way_is_refused_and_the_first_is_answered(service):
    service.worker("one")

    said = ask(
        service,
        """
from petiole.events import RequestEvent
from petiole.events.catalog.request import RequestContent
from petiole.events.errors import UsageError
content = RequestContent(request_type="slow", requester="web", responder="data_service", parameters={"seconds": 1})
first, refused = request(RequestEvent(content=content), timeout=30), []
for event in (RequestEvent(content=content), first.request):
    try:
        request(event, timeout=30)
    except UsageError as error:
        refused.append(content.request_id in str(error) or first.request.event_id in str(error))
pending = bus.stores.requests.count()
print(json.dumps([refused, pending, first.get().value, bus.stores.requests.count()]))
""",
    )

    assert said == [[True, True], 1, "slow", 0]


@pytest.mark.long
def test_a_request_is_answered_over_two_workers_once(service, client):
    for name in ("one", "two"):
        service.worker(name)

    said = ask(
        service,
        """
pending = [request("echo", responder="data_service", value=n, timeout=30) for n in range(50)]
print(json.dumps([each.get().value for each in pending]))
""",
    )

    assert said == list(range(50))
    answers = json.loads(service.run(HISTORY.format(pattern="response.*")))
    assert len({each["content"]["request_id"] for each in answers}) == len(answers) == 50


def test_celery_s_timeout_error_is_what_a_timeout_is(asked):
    slow = Agent("slow")
    slow.answers("ask")(a_silent_answer)
    asked.add(slow)

    with pytest.raises(CeleryTimeoutError) as overdue:
        asked.request("ask", responder="slow", timeout=30).get()

    assert isinstance(overdue.value, RequestTimedOut)
