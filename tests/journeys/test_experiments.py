"""Variants and shadows of a real agent, in a team that answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest

from petiole.events import Event, GeneratedResponse, ResponseGeneratedEvent, TextContent, TextMessageEvent
from petiole.events.catalog.orchestrator import ModelRequest, ModelRequestedEvent
from petiole.tasks import Agent
from petiole.tasks.patterns import shadow_traffic
from petiole.tasks.routing.table import RoutingTable
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import memory, orchestrator, output, tools
from tests.support.apps import command_line, publish_all_once
from tests.support.inside import Inside


def an_experiment() -> Agent:
    """Make an agent `llm` that lets a fifth of the streams try another model, and a third one unheard."""
    llm = Agent("llm")

    @llm.on("orchestrator.llm.requested", split="model", weight=20)
    def brief(event: ModelRequestedEvent) -> Event:
        return an_answer(event, "brief")

    @llm.on("orchestrator.llm.requested", split="model")
    def usual(event: ModelRequestedEvent) -> Event:
        return an_answer(event, "usual")

    @llm.on("orchestrator.llm.requested", shadow=True)
    def poet(event: ModelRequestedEvent) -> Event:
        return an_answer(event, "poet")

    return llm


def an_answer(event: ModelRequestedEvent, model: str) -> ResponseGeneratedEvent:
    content = GeneratedResponse(text=f"{model} says: {event.content.text}", model=model)
    return event.caused(ResponseGeneratedEvent, content=content)


def a_question(stream: int) -> ModelRequestedEvent:
    return ModelRequestedEvent(stream_id=f"stream-{stream}", content=ModelRequest(text="Hello", intent="greeting"))


@pytest.fixture
def team() -> Iterator[EventTestHarness]:
    with EventTestHarness([orchestrator.agent, memory.agent, tools.agent, output.agent, an_experiment()]) as harness:
        yield harness


def test_in_a_conversation_each_turn_is_answered_by_one_variant_and_each_stream_by_the_same(team):
    for number in (*range(8), *range(8)):
        team.send_through(TextMessageEvent(stream_id=f"stream-{number}", content=TextContent(text="Hello")))

    answers = [each for each in team.published_events() if isinstance(each, ResponseGeneratedEvent)]
    assert set(Counter(each.correlation_id for each in answers).values()) == {1}
    assert len(answers) == 16
    assert set(Counter((each.stream_id, each.content.model) for each in answers).values()) == {2}
    assert {each.content.model for each in answers} == {"brief", "usual"}


def test_what_a_shadow_would_have_said_is_kept_beside_what_was_said(team):
    team.send_through(TextMessageEvent(stream_id="s", content=TextContent(text="Hello")))

    (only,) = shadow_traffic.compare("llm.poet", bus=team.bus)

    assert [each["content"]["text"] for each in only.shadow_events] == ["poet says: Hello"]
    assert [each["content"]["text"] for each in only.agent_events] == ["usual says: Hello"]
    assert (only.event_type, only.stream_id) == ("orchestrator.llm.requested", "s")
    assert "poet" not in "".join(each.model_dump_json() for each in team.published_events())


def test_shadows_are_listed_and_compared_at_the_command_line(team, monkeypatch):
    type_ = partial(command_line(team.bus, monkeypatch), "shadows")
    team.send_through(TextMessageEvent(stream_id="s", content=TextContent(text="Hello")))

    listed = type_("--json").stdout
    shown = type_("llm.poet").stdout
    (as_json,) = json.loads(type_("llm.poet", "--json").stdout)

    assert json.loads(listed) == [{"name": "llm.poet", "kept": 1}]
    assert "shadow     llm.response.generated" in shown
    assert "published  llm.response.generated" in shown
    assert as_json["agent_events"][0]["content"]["model"] == "usual"


def test_of_10_000_streams_a_fifth_goes_to_the_variant_each_to_one_and_always_the_same():
    table = RoutingTable(an_experiment().subscriptions)

    first, again = ([table.routes(a_question(stream)) for stream in range(10_000)] for _ in range(2))

    chosen = [[route.subscription.function for route in routes] for routes in first]
    assert chosen == [[route.subscription.function for route in routes] for routes in again]
    assert all(sorted(each) in (["brief", "poet"], ["poet", "usual"]) for each in chosen)
    assert 1_880 <= sum("brief" in each for each in chosen) <= 2_120


@pytest.mark.long
@pytest.mark.timeout(1_500)
def test_10_000_streams_are_delivered_to_one_variant_each_and_the_shadow_is_never_heard():
    questions = [a_question(stream) for stream in (*range(10_000), *range(0, 10_000, 10))]
    with EventTestHarness([an_experiment()]) as harness:
        harness.send_through(questions[0])
        for first in range(1, len(questions), 100):
            publish_all_once(harness.bus, questions[first : first + 100])
        harness.send_through(a_question(0), timeout=1_200)

        answers = Inside(harness).history("llm.response.generated")
        heard = Inside(harness).counts()["shadow_events_suppressed"]

    models = Counter((each["stream_id"], each["content"]["model"]) for each in answers)
    assert models.total() == heard == 11_001
    assert len(models) == 10_000, "each stream has one variant"
    assert 1_880 <= Counter(model for _, model in models)["brief"] <= 2_120
    assert {model for _, model in models} == {"brief", "usual"}
