"""Every public function, with arguments that it cannot take: refused by their names, and nothing else is disturbed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from celery import Celery

from petiole.events import Event, TextContent, TextMessageEvent
from petiole.events.errors import UsageError
from petiole.events.registry import EventRegistry
from petiole.tasks import (
    Agent,
    EventBus,
    PendingResponse,
    RateLimit,
    RetryPolicy,
    Session,
    dead_letters,
    end_session,
    guarded,
    idempotent,
    later,
    mark_session_started,
    open_session,
    record_session_event,
    replay_history,
    report,
    shadow_traffic,
)
from petiole.tasks.patterns.idempotency import forget_call, mark_done
from petiole.tasks.testing import EventTestHarness
from petiole.workers.tools import ToolRegistry
from tests.support.apps import as_default

NAN = float("nan")
WITHOUT_ZONE = datetime.fromisoformat("2026-01-01")
HALF_A_PAIR = "b\udcff"
NUMBERS: tuple[Any, ...] = (True, -1, NAN, float("inf"), "5", b"5", [], {}, object())
TEXTS: tuple[Any, ...] = (True, 0, 1.5, "", b"x", HALF_A_PAIR, [], {}, object())
VALUES: tuple[Any, ...] = (0, 1.5, "x", b"x", [], {}, object())
DURATIONS: tuple[Any, ...] = (True, -1, NAN, "soon", b"1", [], {}, 10**30, timedelta(seconds=-1))
QUERY = dead_letters.DeadLetterQuery()


@dataclass(frozen=True)
class Case:
    """An argument of a function: what its refusal names, how the function is called, and what it refuses."""

    names: str
    call: Callable[[EventBus, Any], object]
    refused: tuple[object, ...]


def a_message() -> Event:
    return TextMessageEvent(stream_id="s", content=TextContent(text="hi"))


def handle(event: Event) -> None: ...


def on(**options: Any) -> object:
    return Agent("a").on("input.*", **options)(handle)


def gather(*parts: Any, **options: Any) -> object:
    return Agent("a").gather(*parts, **({"timeout": 1} | options))(handle)


def use(**options: Any) -> object:
    def multiply(number: int) -> int:
        """Multiply."""
        return number

    return ToolRegistry().add(**options)(multiply)


def session(bus: EventBus) -> Session:
    return open_session("a-session", bus=bus)


def run(bus: EventBus, name: str, **options: Any) -> object:
    arguments: dict[str, Any] = {"responder": "a", "timeout": 0.1} | options
    return asyncio.run(bus.request.aio(name, **arguments))


def replay(bus: EventBus, **options: Any) -> object:
    return dead_letters.replay(QUERY, bus=bus, **options)


CASES = [
    # Agents and their options
    Case("an agent", lambda _, bad: Agent(bad), (True, 0, "", "Memory", b"a", None, "a\n")),
    Case("capacity", lambda _, bad: Agent("a", capacity=bad), (*NUMBERS, 0, 1.5)),
    Case("overflow", lambda _, bad: Agent("a", overflow=bad), (*VALUES, "blok", None)),
    Case("pattern", lambda _, bad: Agent("a").on(bad)(handle), (*VALUES[:2], "", "A", b"x", [], {}, None)),
    Case("pattern", lambda _, bad: Agent("a").on_error(bad)(handle), (0, "", "input.*", b"x", None)),
    Case("where", lambda _, bad: on(where=bad), (*VALUES[:5], {"content.text": None}, {"": 1}, {0: 1})),
    Case("ordered", lambda _, bad: on(ordered=bad), (0, 1, "", [], {}, b"x", None)),
    Case("priority", lambda _, bad: on(priority=bad), (*NUMBERS, 10)),
    Case("expires", lambda _, bad: on(expires=bad), (*DURATIONS, 0)),
    Case("split", lambda _, bad: on(split=bad), TEXTS),
    Case("variant", lambda _, bad: on(split="s", variant=bad), TEXTS),
    Case("weight", lambda _, bad: on(split="s", weight=bad), (*NUMBERS, 101)),
    Case("shadow", lambda _, bad: on(shadow=bad), (*VALUES, 1, None)),
    Case("timeout", lambda _, bad: on(timeout=bad), (*DURATIONS, 0)),
    Case("on_busy", lambda _, bad: on(on_busy=bad), (*VALUES, "wait")),
    Case("retry", lambda _, bad: on(retry=bad), (*VALUES, True, {"max_attempts": 1})),
    Case("request_type", lambda _, bad: Agent("a").answers(bad)(handle), (True, 0, "", b"x", [], None)),
    Case("read_only", lambda _, bad: Agent("a").answers("q", read_only=bad)(handle), (*VALUES, None)),
    Case("parts", lambda _, bad: gather(bad), ("input.*",)),
    Case("pattern", lambda _, bad: gather(bad, "input.*"), (0, "", (), [], None)),
    Case("timeout", lambda _, bad: gather("message.a", "message.b", timeout=bad), (*DURATIONS, 0, None)),
    Case("by", lambda _, bad: gather("message.a", "message.b", by=bad), (*TEXTS, None)),
    # Policies and limits
    Case("max_attempts", lambda _, bad: RetryPolicy(max_attempts=bad), (*NUMBERS, 0, 1.5, None)),
    Case("base", lambda _, bad: RetryPolicy(base=bad), (*DURATIONS, None)),
    Case("cap", lambda _, bad: RetryPolicy(cap=bad), (*DURATIONS, None)),
    Case("factor", lambda _, bad: RetryPolicy(factor=bad), (*NUMBERS, 0.5, None)),
    Case("jitter", lambda _, bad: RetryPolicy(jitter=bad), (*NUMBERS, 1.5, None)),
    Case("permanent", lambda _, bad: RetryPolicy(permanent=bad), (0, "x", ValueError, (0,), None)),
    Case("attempts", lambda _, bad: RetryPolicy(attempts=bad), (3,)),
    Case("later", lambda _, bad: later(bad), (*DURATIONS, None)),
    Case("topic", lambda _, bad: guarded(bad), (*TEXTS, "A b", handle)),
    Case("failures", lambda _, bad: guarded("a.b", failures=bad), (*NUMBERS, 0, None)),
    Case("rate", lambda _, bad: guarded("a.b", rate=bad), (*NUMBERS, 0, 2)),
    Case("reset", lambda _, bad: guarded("a.b", reset=bad), (*DURATIONS, 0, None)),
    Case("ignored_errors", lambda _, bad: guarded("a.b", ignored_errors=bad), (0, "x", KeyError, (0,))),
    Case("failure", lambda _, bad: guarded("a.b", failure=bad), (3,)),
    Case("account", lambda _, bad: RateLimit(bad), (*TEXTS, "A b")),
    Case("requests", lambda _, bad: RateLimit("a.b", requests=bad), (*NUMBERS, 0, 10**30)),
    Case("window", lambda _, bad: RateLimit("a.b", window=bad), (*DURATIONS, 0, None)),
    Case("tokens", lambda _, bad: RateLimit("a.b", tokens=9).reserve(tokens=bad), (*NUMBERS, 10, 1.5, None)),
    Case("duration", lambda _, bad: RateLimit("a.b").pause(bad), (*DURATIONS, None)),
    Case("key", lambda _, bad: idempotent(key=bad), (True, "x", [], 0)),
    Case("on_unfinished", lambda _, bad: idempotent(on_unfinished=bad), (True, "again", None)),
    Case("limit", lambda _, bad: idempotent(limit=bad), (*DURATIONS, None)),
    Case("name", lambda bus, bad: forget_call(bad, "k", bus=bus), TEXTS),
    Case("result", lambda bus, bad: mark_done("n", "k", bad, bus=bus), (object(), NAN, {0, 1}, b"x")),
    # Publishing
    Case("event", lambda bus, bad: bus.publish(bad), (True, 0, "x", b"x", [], {}, None, object(), TextMessageEvent)),
    Case("event", lambda bus, bad: bus.publish.delay(bad), (True, "x", b"x", [], {}, None, object())),
    Case("event", lambda bus, bad: asyncio.run(bus.publish.aio(bad)), (True, "x", [], {}, None)),
    Case("events", lambda bus, bad: bus.publish_many(bad), (0, "x", b"x", {}, None, a_message(), object())),
    Case("event", lambda bus, bad: bus.publish_many([bad]), (0, "x", [], {}, None)),
    Case("delay", lambda bus, bad: bus.publish(a_message(), delay=bad), DURATIONS),
    Case("delay", lambda bus, bad: bus.publish.delay(a_message(), delay=bad), DURATIONS),
    Case("at", lambda bus, bad: bus.publish(a_message(), at=bad), (0, "x", [], WITHOUT_ZONE, HALF_A_PAIR)),
    Case("publish: ", lambda bus, bad: bus.publish.apply_async((a_message(),), eta=bad), (0, "x", "9999-01-01T00Z")),
    # Requests
    Case("request", lambda bus, bad: bus.request(bad, responder="a"), (a_message(), 0, None, b"x", object())),
    Case("request_type", lambda bus, bad: bus.request(bad, responder="a"), ("", HALF_A_PAIR)),
    Case("responder", lambda bus, bad: bus.request("q", responder=bad), (*TEXTS, None)),
    Case("requester", lambda bus, bad: bus.request("q", responder="a", requester=bad), TEXTS),
    Case("request_id", lambda bus, bad: bus.request("q", responder="a", request_id=bad), (*TEXTS, "x" * 256)),
    Case("timeout", lambda bus, bad: bus.request("q", responder="a", timeout=bad), (*DURATIONS, 0)),
    Case("returns", lambda bus, bad: bus.request("q", responder="a", returns=bad), (0, "x", {}, object())),
    Case("parameters", lambda bus, bad: bus.request("q", responder="a", p=bad), (object(), NAN, {1}, HALF_A_PAIR)),
    Case("request", run, (a_message(), 0, None)),
    Case("request_id", lambda bus, bad: run(bus, "q", request_id=bad), TEXTS),
    Case("timeout", lambda bus, bad: run(bus, "q", timeout=bad), DURATIONS),
    Case("get.timeout", lambda bus, bad: bus.request("q", responder="a").get(timeout=bad), (True, "1", NAN, [])),
    # Streams
    Case("stream_id", lambda bus, bad: bus.read_answer(bad, "a"), TEXTS),
    Case("answer_id", lambda bus, bad: bus.read_answer("s", bad), TEXTS),
    Case("after", lambda bus, bad: bus.read_answer("s", "a", after=bad), NUMBERS),
    Case("timeout", lambda bus, bad: bus.read_answer.aio("s", "a", timeout=bad), NUMBERS),
    Case("stream_id", lambda bus, bad: bus.read_answer.all(bad), TEXTS),
    # Sessions
    Case("event", lambda bus, bad: record_session_event(bad, bus=bus), (0, "x", {}, None)),
    Case("session_type", lambda bus, bad: record_session_event(a_message(), session_type=bad, bus=bus), TEXTS),
    Case("session_id", lambda bus, bad: open_session(bad, bus=bus), (*TEXTS, "x" * 256)),
    Case("session_type", lambda bus, bad: open_session("a", session_type=bad, bus=bus), (*TEXTS, "party")),
    Case("session_id", lambda bus, bad: end_session(bad, bus=bus), TEXTS),
    Case("reason", lambda bus, bad: end_session("a", reason=bad, bus=bus), (*TEXTS, "over")),
    Case("info", lambda bus, bad: mark_session_started(bad, bus=bus), (0, "x", None)),
    Case("participant", lambda bus, bad: session(bus).join(bad), (0, "ada", None)),
    Case("participant_id", lambda bus, bad: session(bus).leave(bad), TEXTS),
    Case("to", lambda bus, bad: session(bus).transition(bad), (*TEXTS, "over")),
    Case("name", lambda bus, bad: session(bus).memory.set(bad, 1), TEXTS),
    Case("'v'", lambda bus, bad: session(bus).memory.set("v", bad), (object(), NAN, b"x", HALF_A_PAIR, 2**64)),
    Case("memory", lambda bus, bad: session(bus).memory.update(bad), (0, "x", [], None, {0: 1})),
    Case("names", lambda bus, bad: session(bus).memory.remove(bad), (0, "x", [0], None)),
    Case("increment", lambda bus, bad: session(bus).memory.increment("n", bad), (*VALUES[1:], True, 2**64)),
    # Errors, history, shadows
    Case("error", lambda _, bad: report(bad), (0, None, [], a_message(), ValueError)),
    Case("severity", lambda _, bad: report("x", severity=bad), (0, "bad", None, [])),
    Case("event_type", lambda _, bad: report("x", event_type=bad), (0, "", "input.message.received", "A", None)),
    Case("agent", lambda _, bad: report("x", agent=bad), TEXTS),
    Case("event", lambda _, bad: report("x", event=bad), (0, "x", {})),
    Case("parameters", lambda _, bad: report("x", p=bad), (object(), NAN)),
    Case("subscription", lambda bus, bad: replay_history(bad, bus=bus), TEXTS),
    Case("no subscription", lambda bus, bad: replay_history(bad, bus=bus), ("keeper.kep",)),
    Case("stream", lambda bus, bad: replay_history("keeper.keep", stream=bad, bus=bus), TEXTS),
    Case("since", lambda bus, bad: replay_history("keeper.keep", since=bad, bus=bus), VALUES),
    Case("zone", lambda bus, bad: replay_history("keeper.keep", until=bad, bus=bus), (WITHOUT_ZONE,)),
    Case("pattern", lambda bus, bad: replay_history("keeper.keep", pattern=bad, bus=bus), (0, "", "A", [])),
    Case("rate_hz", lambda bus, bad: replay_history("keeper.keep", rate_hz=bad, bus=bus), (*NUMBERS, 0)),
    Case("subscription", lambda bus, bad: list(shadow_traffic.compare(bad, bus=bus)), TEXTS),
    Case("limit", lambda bus, bad: list(shadow_traffic.compare("a.b", limit=bad, bus=bus)), (*NUMBERS, 0, None)),
    # Dead letters
    Case("ids", lambda _, bad: dead_letters.DeadLetterQuery(ids=bad), (0, "x", ["x"], ("",), None)),
    Case("cause", lambda _, bad: dead_letters.DeadLetterQuery(cause=bad), TEXTS),
    Case("states", lambda _, bad: dead_letters.DeadLetterQuery(states=bad), (0, "pending", ("open",), None)),
    Case("letters", lambda bus, bad: dead_letters.find_dead_letters(bad, bus=bus), (0, "x", {})),
    Case("letter", lambda bus, bad: dead_letters.get_dead_letter(bad, bus=bus), (*TEXTS, "unknown")),
    Case("by", lambda bus, bad: dead_letters.group_dead_letters(bad, bus=bus), (*TEXTS, "colour")),
    Case("names", lambda _, bad: dead_letters.parse_states(bad), (0, "pending", ["open"])),
    Case("letters", lambda bus, bad: dead_letters.replay(bad, bus=bus), (0, "x", None)),
    Case("rate_hz", lambda bus, bad: replay(bus, rate_hz=bad), (*NUMBERS, 0)),
    Case("canary", lambda bus, bad: replay(bus, canary=bad), (*NUMBERS, 1.5)),
    Case("wait", lambda bus, bad: replay(bus, wait=bad), (*VALUES, None)),
    Case("timeout", lambda bus, bad: replay(bus, timeout=bad), DURATIONS),
    Case("operator", lambda bus, bad: replay(bus, operator=bad), TEXTS),
    Case("letters", lambda bus, bad: dead_letters.discard(bad, bus=bus), (0, "x", None)),
    Case("letters", lambda bus, bad: dead_letters.plan(bad, bus=bus), (0, "x", None)),
    Case("event", lambda bus, bad: dead_letters.edit("x", bad, bus=bus), (0, "x", [], None)),
    Case("file", lambda bus, bad: dead_letters.export_to(bad, QUERY, bus=bus), (0, "x", None)),
    Case("lines", lambda bus, bad: dead_letters.import_from(bad, bus=bus), (0, "x", b"x", {}, None)),
    Case("line 1", lambda bus, bad: dead_letters.import_from([bad], bus=bus), (0, b"x", "x", "[]", "{}")),
    Case("ids", lambda bus, bad: dead_letters.read_progress(bad, bus=bus), (0, "x", None)),
    # Tools
    Case("timeout", lambda _, bad: use(timeout=bad), (*DURATIONS, 0, None)),
    Case("needs_approval", lambda _, bad: use(needs_approval=bad), (0, "no", None)),
    Case("on_unfinished", lambda _, bad: use(on_unfinished=bad), (True, "again", None)),
    Case("guarded", lambda _, bad: use(guarded=bad), (0, "", [], None)),
    # Buses
    Case("app", lambda _, bad: EventBus(bad), (0, "x", {}, Celery)),
    Case("settings", lambda _, bad: EventBus(settings=bad), (0, "x", {"max_hops": 1})),
    Case("event_registry", lambda _, bad: EventBus(event_registry=bad), (0, None, EventRegistry)),
    Case("include", lambda _, bad: EventBus().include(bad), (0, "x", None, Agent)),
    Case("handler", lambda _, bad: EventBus().subscribe("input.*", bad), (0, "x", None, lambda event: None)),
    Case("timeout_s", lambda bus, bad: bus.wait(bad), NUMBERS),
]


@pytest.fixture(scope="module")
def harness() -> Iterator[EventTestHarness]:
    keeper = Agent("keeper")
    keeper.on("input.*")(keep)
    with EventTestHarness([keeper]) as harness:
        harness.send_through(a_message())
        yield harness


def keep(event: Event) -> None: ...


def count_effects(harness: EventTestHarness) -> tuple[int, int]:
    """Count what was published and dead-lettered, except for a request that a case has to make first."""
    topics = [event.event_type.partition(".")[0] for event in harness.published_events()]
    return len([topic for topic in topics if topic not in {"request", "response"}]), len(harness.dead_letters())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{CASES.index(case)}-{case.names}")
def test_a_wrong_argument_is_refused_by_its_name_and_disturbs_nothing(harness, monkeypatch, case):
    as_default(harness.bus, monkeypatch)
    before = count_effects(harness)

    for bad in case.refused:
        with pytest.raises(UsageError) as refusal:
            pytest.fail(f"{bad!r} was taken: {case.call(harness.bus, bad)!r}")
        told = str(refusal.value)
        assert case.names in told, (bad, told)
        assert len(told) < 1_000

    assert count_effects(harness) == before


def test_after_all_refusals_events_are_still_handled(harness):
    assert harness.send_through(a_message())


@pytest.mark.parametrize("decorator", ["on", "on_error", "answers", "gather"])
def test_a_decorator_without_brackets_is_refused_where_it_is_written(decorator):
    with pytest.raises(UsageError, match=rf"@agent\.{decorator} has no brackets, so handle is not subscribed"):
        getattr(Agent("a"), decorator)(handle)


def test_idempotent_without_brackets_is_refused_at_the_first_call():
    def charge(order: str, pence: int) -> None: ...

    decorated: Any = idempotent(charge)  # type: ignore[arg-type]  # as `@idempotent` calls it

    with pytest.raises(UsageError, match="@idempotent has no brackets"):
        decorated("an order", 5)


def without_parameters() -> None: ...


def with_three(event: Event, context: object, more: object) -> None: ...


def with_a_name_only(event: Event, *, more: object) -> None: ...


@pytest.mark.parametrize("function", [without_parameters, with_three, with_a_name_only])
def test_a_handler_that_cannot_be_called_with_an_event_is_refused(function):
    with pytest.raises(UsageError, match=rf"a\.{function.__name__} is declared as .* declare it as def"):
        Agent("a").on("input.*")(function)
    with pytest.raises(UsageError, match="declare it as def"):
        Agent("a").gather("input.*", "tools.*", timeout=1)(function)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"pattern": "input.mesage.received"}, "did you mean 'input.message.received'?"),
        ({"pattern": "input.mesage.*"}, "did you mean 'input.message.*'?"),
        ({"pattern": "imput.*"}, "did you mean 'input.*'?"),
        ({"pattern": "custom.never_declared"}, "it matches no known event type"),
        ({"where": {"content.txt": "a"}}, "did you mean 'content.text'?"),
        ({"where": {"content.text.length": 1}}, "no event with a field 'content.text.length'"),
        ({"ordered": "content.txt"}, "ordered: it gets no event with a field 'content.txt'"),
    ],
    ids=str,
)
def test_a_typo_in_a_subscription_is_refused_with_the_nearest_name(options, reason):
    pattern = {"pattern": "input.*"} | options

    with pytest.raises(UsageError) as refusal:
        EventBus().subscribe(handler=handle, **pattern)

    assert reason in str(refusal.value)


def test_a_refused_handler_leaves_the_agent_that_was_to_have_it_as_it_was():
    with EventBus() as bus:
        bus.subscribe("input.*", handle)
        with pytest.raises(UsageError, match="did you mean"):
            bus.subscribe("imput.*", keep)

        bus.subscribe("input.*", keep)

        assert bus.publish(a_message()).subscriptions == ("subscriber.handle", "subscriber.keep")


def test_a_field_to_gather_by_that_a_part_does_not_have_is_refused():
    agent = Agent("a")
    agent.gather("input.*", "message.order", timeout=1, by="content.parameters.order")(handle)

    with pytest.raises(UsageError, match=r"by: for 'input\.\*' it gets no event with a field"):
        EventBus().include(agent)


def test_a_field_that_a_declared_type_does_not_have_is_refused():
    event_registry = EventRegistry()
    event_registry.declare("custom.order_placed", {"order": str})
    bus = EventBus(event_registry=event_registry)

    bus.subscribe("custom.order_placed", handle, agent="one", where={"content.parameters.order": "a"})
    with pytest.raises(UsageError, match=r"did you mean 'content.parameters.order'\?"):
        bus.subscribe("custom.order_placed", handle, agent="two", where={"content.parameters.oder": "a"})


def test_a_pattern_that_the_harness_could_never_see_is_refused_at_once(harness):
    with pytest.raises(UsageError, match=r"did you mean 'input.message.received'\?"):
        harness.expect("input.mesage.received")


def test_any_text_is_a_requests_id():
    agent = Agent("users")

    @agent.answers("get")
    def get() -> str:
        return "ada"

    with EventTestHarness([agent]) as other:
        for request_id in (
            "order 17",
            "a:b:reply",
            "line\nline",
            "ü",
            "x" * 255,
            "ABCDEF00-0000-4000-8000-000000000000",
        ):
            pending: PendingResponse[Any] = other.bus.request("get", responder="users", request_id=request_id)
            response = pending.get(timeout=10)
            assert (response.value, response.request_id) == ("ada", request_id)


def test_a_reply_of_another_type_is_refused_by_its_field_each_time_it_is_read():
    agent = Agent("users")

    @agent.answers("get")
    def get() -> str:
        return "ada"

    with EventTestHarness([agent]) as other:
        pending = other.request("get", responder="users", returns=int)
        for _ in range(2):
            with pytest.raises(UsageError, match="the reply's field 'response': input should be a valid integer"):
                pending.get()
