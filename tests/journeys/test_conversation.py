"""A conversation with the agents that come with Petiole, in one process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from petiole.events import EventContext, TextContent, TextMessageEvent
from petiole.events.catalog.output import MessageSentEvent
from petiole.events.catalog.tools import ToolProgressEvent
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import input as input_agent
from petiole.workers.agents import llm, memory, orchestrator, output, tools
from tests.support.apps import as_default
from tests.support.inside import Inside

FLOW = [
    "input.message.received",
    "orchestrator.intent.classified",
    "orchestrator.context.requested",
    "orchestrator.tools.requested",
    "orchestrator.tools.prepared",
    "memory.context.assembled",
    "aggregation.completed",
    "orchestrator.llm.requested",
    "llm.response.generated",
    "orchestrator.response.ready",
    "output.formatting.completed",
    "output.message.sent",
]


def create_test_context(user_id: str = "a-user") -> EventContext:
    return EventContext(source="test", user_id=user_id, session_id="test_conversation")


@pytest.fixture
def team() -> Iterator[EventTestHarness]:
    agents = [module.agent for module in (orchestrator, memory, tools, llm, output)]
    with EventTestHarness(agents) as harness:
        yield harness


def say(team: EventTestHarness, text: str, stream_id: str = "a-stream", user_id: str = "a-user") -> str:
    """Say something, wait until all is over, and return the answer."""
    context = create_test_context(user_id)
    events = team.send_through(TextMessageEvent(stream_id=stream_id, content=TextContent(text=text), context=context))
    (sent,) = [event for event in events if isinstance(event, MessageSentEvent)]
    return sent.content.text


class EventIntegrationTest:
    """The integration test of the Janus document, as it stands there but for `await` and the way agents are named."""

    def complete_conversation_flow(self, orchestrator, memory, llm, output):
        # Set up all components
        harness = EventTestHarness([orchestrator, memory, llm, output])

        # Send input event
        input_event = TextMessageEvent(
            stream_id="test_conversation",
            content=TextContent(text="Hello, can you help me?"),
            context=create_test_context(),
        )

        # Verify complete flow
        response_event = harness.send_event_and_wait(
            input_event,
            "output.message.sent",
        )
        harness.close()

        assert isinstance(response_event, MessageSentEvent)
        assert response_event.content.text != ""
        assert "help" in response_event.content.text.lower()


def test_complete_conversation_flow():
    EventIntegrationTest().complete_conversation_flow(orchestrator.agent, memory.agent, llm.agent, output.agent)


def test_a_message_walks_through_every_step_in_order_and_in_one_flow(team):
    message = TextMessageEvent(stream_id="s", content=TextContent(text="Hello"), context=create_test_context())

    events = team.send_through(message)

    assert [event.event_type for event in events] == FLOW
    assert {event.correlation_id for event in events} == {message.correlation_id}
    assert {event.trace_id for event in events} == {message.trace_id}
    assert {event.stream_id for event in events} == {"s"}
    assert [event.context for event in events] == [create_test_context()] * len(FLOW)
    assert [event.timestamp for event in events] == sorted(event.timestamp for event in events)


def test_every_event_names_its_cause(team):
    events = team.send_through(TextMessageEvent(stream_id="s", content=TextContent(text="Hello")))

    by_id = {event.event_id: event for event in events}
    causes = {event.event_type: by_id[event.causation_id].event_type for event in events[1:]}
    assert causes == {
        "orchestrator.intent.classified": "input.message.received",
        "orchestrator.context.requested": "input.message.received",
        "orchestrator.tools.requested": "input.message.received",
        "orchestrator.tools.prepared": "input.message.received",
        "memory.context.assembled": "orchestrator.context.requested",
        "aggregation.completed": "memory.context.assembled",
        "orchestrator.llm.requested": "aggregation.completed",
        "llm.response.generated": "orchestrator.llm.requested",
        "orchestrator.response.ready": "llm.response.generated",
        "output.formatting.completed": "orchestrator.response.ready",
        "output.message.sent": "orchestrator.response.ready",
    }


def test_input_reaches_orchestrator_and_memory(team):
    publication = team.publish(TextMessageEvent(stream_id="s", content=TextContent(text="Hello")))

    assert publication.subscriptions == ("memory.remember", "orchestrator.understand")


def test_a_calculation_is_done_by_a_tool(team):
    assert "84" in say(team, "What is 12 * 7?")

    ran = [event.event_type for event in team.published_events() if event.event_type.startswith("tools.")]
    assert ran == ["tools.execution.requested", "tools.execution.started", "tools.execution.completed"]


def test_what_was_said_before_is_recalled(team):
    say(team, "What is 12 * 7?")

    assert "12 * 7" in say(team, "What did I ask you to calculate?")


def test_nothing_is_recalled_from_another_users_stream(team):
    say(team, "My dog is called Rex.", stream_id="one", user_id="one")

    assert "Rex" not in say(team, "What is my dog called?", stream_id="another", user_id="another")


def test_what_a_user_stated_is_recalled_in_another_stream(team):
    say(team, "My dog is called Rex.", stream_id="one")

    assert "Rex" in say(team, "What is my dog called?", stream_id="another")


def test_a_tool_that_fails_still_leads_to_an_answer(team):
    assert say(team, "What is 1 / 0?") != ""

    assert team.expect("tools.execution.failed")


def test_a_tool_says_how_far_it_is(team):
    say(team, "How many primes are below 100000?")

    percents = [event.content.percent for event in team.published_events() if isinstance(event, ToolProgressEvent)]
    assert percents == sorted(percents)
    assert len(percents) == 5


def test_two_messages_of_one_stream_are_two_flows(team):
    first, second = (
        TextMessageEvent(stream_id="s", content=TextContent(text=text)) for text in ("Hello", "What is 2 + 2?")
    )
    team.publish(first)
    team.send_through(second)

    flows: dict[str, list[str]] = {}
    for event in team.published_events():
        flows.setdefault(event.correlation_id, []).append(event.event_type)

    assert sorted(flows) == sorted([first.correlation_id, second.correlation_id])
    assert sorted(flows[first.correlation_id]) == sorted(FLOW)
    assert "tools.execution.completed" in flows[second.correlation_id]


def test_an_answer_waits_once_for_its_reader(team):
    say(team, "Hello")

    (text,) = Inside(team).take_replies("a-stream")
    assert "help" in text


def test_a_stream_is_started_once(team, monkeypatch):
    as_default(team.bus, monkeypatch)

    for number in range(10):
        input_agent.publish_message(f"message {number}", stream_id="s", publish=team.publish)

    published = [event.event_type for event in team.published_events()]
    assert published.count("input.stream.started") == 1
    assert published.count("input.message.received") == 10


def test_the_input_agent_hears_nothing():
    assert input_agent.agent.subscriptions == []
