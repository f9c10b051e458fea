"""Agent state: what an agent keeps of itself leaves with what its handler says, or not at all."""

from __future__ import annotations

from petiole.events import Event
from petiole.events.catalog.agent import StateUpdatedEvent
from petiole.tasks import Agent, Context, RetryPolicy
from tests.support.inside import Inside


def counting(**options: object) -> Agent:
    agent = Agent("counter")

    @agent.on("input.*", retry=RetryPolicy(max_attempts=2))
    def count(event: Event, context: Context) -> None:
        seen = context.state.get("seen", 0)
        assert isinstance(seen, int)
        context.state.set("seen", seen + 1)
        assert context.state.get("seen") == seen + 1
        if event.stream_id == "bad":
            raise RuntimeError("never mind")

    return agent


def test_a_value_is_there_for_the_next_delivery_and_one_event_tells_of_it(harness, a_message):
    harness.add(counting())
    first, second = a_message(), a_message()

    harness.send_through(first)
    harness.send_through(second)

    told = [event for event in harness.published_events() if isinstance(event, StateUpdatedEvent)]
    assert [(each.content.agent, each.content.state, each.content.value) for each in told] == [
        ("counter", "seen", {"seen": 1}),
        ("counter", "seen", {"seen": 2}),
    ]
    assert told[1].causation_id == second.event_id
    assert Inside(harness).agent_state("counter") == {"seen": 2}


def test_a_handler_that_fails_has_set_nothing(harness, a_message):
    harness.add(counting())

    harness.send_through(a_message(stream_id="bad"))

    assert Inside(harness).agent_state("counter") == {}
    assert not any(isinstance(event, StateUpdatedEvent) for event in harness.published_events())


def asked(*, read_only: bool = True) -> Agent:
    agent = Agent("clerk")

    @agent.answers("count", read_only=read_only)
    def count(context: Context) -> int:
        context.state.set("asked", 1)
        return 1

    return agent


def test_an_answer_is_read_only_and_says_so(harness):
    harness.add(asked())

    response = harness.request("count", responder="clerk").get(timeout=5)

    assert (response.ok, response.error_type) == (False, "read_only_violation")
    assert "clerk.count" in response.error
    assert Inside(harness).agent_state("clerk") == {}


def test_an_answer_that_says_so_may_set_state(harness, eventually):
    harness.add(asked(read_only=False))

    assert harness.request("count", responder="clerk").get(timeout=5).value == 1
    eventually(lambda: Inside(harness).agent_state("clerk") == {"asked": 1}, 5)


def test_a_shadow_sets_nothing(harness, a_message):
    agent = Agent("shadow")

    @agent.on("input.*", shadow=True)
    def try_out(event: Event, context: Context) -> None:
        context.state.set("seen", 1)

    harness.add(agent)
    harness.send_through(a_message())

    assert Inside(harness).agent_state("shadow") == {}


def test_with_a_real_worker_value_and_event_leave_in_the_same_step(node, inside, eventually):
    source = """
from petiole.events import Event
from petiole.tasks import Agent, Context

counter = Agent("counter")

@counter.on("input.*", ordered=True)
def count(event: Event, context: Context) -> None:
    context.state.set("seen", context.state.get("seen", 0) + 1)
    context.state.set("last", {"text": event.content.text})
"""
    node.module("counter", source)
    node.environment["PETIOLE_AGENTS"] = "counter"
    node.worker("w")

    node.run(
        "from events import TextContent, TextMessageEvent\n"
        "from tasks import publish_many\n"
        "publish_many([TextMessageEvent(stream_id='s', content=TextContent(text=str(n))) for n in range(10)])"
    )

    eventually(lambda: inside.agent_state("counter") == {"seen": 10, "last": {"text": "9"}}, 10, node.logs)
    assert inside.topics().count("agent.state.updated") == 20
