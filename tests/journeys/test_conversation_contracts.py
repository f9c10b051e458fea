"""A conversation of twenty turns, in which every row of the agents' contracts (J42 to J77) is seen in the history.

It has tools, memory, a contradiction, a tool that fails, one that does not exist, a slow model and one that is away;
one worker, one store, a webhook's receiver over HTTP. Then the table is walked: each row looks at what was recorded.
"""

from __future__ import annotations

import base64
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType
from typing import Any, TypeVar

import pytest

from petiole.events import (
    AudioChunkEvent,
    AudioContent,
    Event,
    FormattedResponse,
    ProactiveSuggestion,
    ProactiveSuggestionEvent,
    ResponseReadyEvent,
    TextMessageEvent,
    ToolResultEvent,
    VideoContent,
    VideoFrameEvent,
)
from petiole.events.catalog.llm import ResponseFailedEvent, ResponseGeneratedEvent
from petiole.events.catalog.memory import ContextAssembledEvent
from petiole.events.catalog.orchestrator import ContextRequest, ContextRequestedEvent, ModelRequest, ToolsRequestedEvent
from petiole.events.catalog.output import MessageFailedEvent, MessageSentEvent, SuggestionDroppedEvent
from petiole.events.catalog.session import StreamEndedEvent, StreamStartedEvent
from petiole.events.catalog.tools import ToolFailedEvent, ToolProgressEvent, ToolStartedEvent
from petiole.events.errors import ProviderUnavailable
from petiole.tasks import end_session
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import input as input_agent
from petiole.workers.llm.rules import RuleBasedModel
from petiole.workers.llm.rules.intent_rules import ToolPlan, plan_tools
from petiole.workers.process.discovery import load_agents
from petiole.workers.state import team_state
from tests.support.apps import as_default
from tests.support.inside import Inside, deliver, is_quiet, settle

STREAM = "a-conversation"
TURNS = (
    "Hello, can you help me?",
    "My name is Ada.",
    "What is 12 * 7?",
    "What is 1 / 0?",  # a tool that fails
    "What is the weather in Rome?",  # a tool that there is not
    "How many primes are below 100000?",  # a tool that tells how far it is
    "What is 2 + 2 and what time is it in Tokyo?",  # two tools
    "My name is Bob.",  # a contradiction
    "What is my name?",
    "Please answer slowly: why is the sky blue?",
    "When does the shop open?",  # the same question three times
    "When does the shop open?",
    "When does the shop open?",
    "What did I ask you to calculate?",
    "I like tea.",
    "What is 3 * 3?",
    "Please fail now.",  # a model that is away
    "Thanks",
    "What time is it in Paris?",
    "Bye",
)
SLOW_S = 0.3

FLOW = (
    "input.message.received",
    "orchestrator.intent.classified",
    "orchestrator.context.requested",
    "memory.context.assembled",
    "orchestrator.llm.requested",
    "llm.response.generated",
    "orchestrator.response.ready",
    "output.formatting.completed",
    "output.message.sent",
)

AnEvent = TypeVar("AnEvent", bound=Event)


class Moody(RuleBasedModel):
    """The rules, slow at times, and away at times."""

    name = "moody"

    def answer(self, request: ModelRequest, *rest: Any) -> Any:
        if "slowly" in request.text:
            time.sleep(SLOW_S)
        if "fail now" in request.text:
            raise ProviderUnavailable(self.name, "it is away")
        return super().answer(request, *rest)


@dataclass
class Seen:
    """What became of the conversation: the events of each turn, and where more can be tried."""

    team: EventTestHarness
    posted: list[tuple[str, str]]
    events: list[Event]
    flows: dict[str, list[Event]]
    turns: list[str]

    def of(self, kind: type[AnEvent]) -> list[AnEvent]:
        return [event for event in self.events if isinstance(event, kind)]

    def topics(self, turn: int) -> Counter[str]:
        """Count the events of a turn, from 0."""
        return Counter(event.event_type for event in self.flow(turn))

    def flow(self, turn: int) -> list[Event]:
        """Read all events of a turn's flow, in the order of the history."""
        return self.flows[self.turns[turn]]

    def handled(self, subscription: str, event: Event) -> bool:
        return Inside(self.team).is_handled(subscription, event)

    def heard(self, event: Event) -> tuple[str, ...]:
        return self.team.publish(event).subscriptions

    def delivered_again(self, subscription: str, event: Event, *, as_new: bool = False) -> list[str]:
        """Bring an event to a subscription once more, as the broker would; returns the topics published since."""
        settle(self.team)
        before = len(self.team.published_events())
        deliver(self.team, subscription, event, as_new=as_new)
        return [each.event_type for each in self.team.published_events()[before:]]


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def posted(patch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """Give what a webhook's receiver got: id and text. It is away for the stream `unreachable`."""
    posted: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["data"]
            posted.append((said["message_id"], said["text"]))
            self.send_response(503 if said["stream_id"] == "unreachable" else 204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    patch.setenv("PETIOLE_WEBHOOK_URL", f"http://127.0.0.1:{server.server_port}")
    patch.setenv("PETIOLE_WEBHOOK_SECRET", "whsec_" + base64.b64encode(b"0" * 32).decode())
    patch.setenv("NO_PROXY", "*")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield posted
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def seen(patch: pytest.MonkeyPatch, posted: list[tuple[str, str]]) -> Iterator[Seen]:
    """Hold the conversation."""
    module = ModuleType("a_model_of_this_file")
    module.Moody = Moody  # type: ignore[attr-defined]  # that is how it gets there
    patch.setitem(sys.modules, module.__name__, module)
    patch.setenv("PETIOLE_LLM", f"{module.__name__}:Moody")
    agents = load_agents(iter(["petiole.workers.agents"]))
    for name in ("petiole.workers.agents.orchestrator", "petiole.workers.agents.orchestrator.conversation_turn"):
        if hasattr(sys.modules.get(name), "plan_tools"):
            patch.setattr(f"{name}.plan_tools", with_weather)
    with EventTestHarness(agents) as team:
        as_default(team.bus, patch)
        messages = [say(team, text) for text in TURNS]
        events = [event for event in team.published_events() if event.stream_id == STREAM]
        flows: dict[str, list[Event]] = {}
        for event in events:
            flows.setdefault(event.correlation_id, []).append(event)
        yield Seen(team, posted, events, flows, [message.correlation_id for message in messages])


def with_weather(intent: Any, text: str) -> tuple[ToolPlan, ...]:
    """Plan as the orchestrator does, and a tool that nobody has where the weather is asked for."""
    return (ToolPlan("weather"),) if "weather" in text else plan_tools(intent, text)


def say(team: EventTestHarness, text: str) -> Event:
    """Say something by the door, and wait until all is over."""
    message = input_agent.receive(text, stream_id=STREAM, user_id="a-user", publish=team.publish)
    settle(team)
    return message


# The rows


ROWS: dict[str, Callable[[Seen], None]] = {}
ARow = TypeVar("ARow", bound=Callable[[Seen], None])


def row(*names: str) -> Callable[[ARow], ARow]:
    def add(look: ARow) -> ARow:
        ROWS.update(dict.fromkeys(names, look))
        return look

    return add


@row("every turn")
def every_turn_is_answered_once_by_each_channel(seen: Seen) -> None:
    for turn, text in enumerate(TURNS):
        answers = [
            event for event in seen.flow(turn) if isinstance(event, MessageSentEvent) and not suggested(seen, event)
        ]
        assert sorted(event.content.channel for event in answers) == ["mailbox", "webhook"], text
        assert len({event.content.text for event in answers}) == 1, text


def suggested(seen: Seen, sent: Event) -> bool:
    causes = {event.event_id: event for event in seen.events}
    return isinstance(causes[str(sent.causation_id)], ProactiveSuggestionEvent)


@row("order")
def timestamps_are_in_the_order_of_the_flow(seen: Seen) -> None:
    by_id = {event.event_id: event for event in seen.events}
    for event in seen.events:
        cause = by_id.get(str(event.causation_id))
        assert cause is None or cause.timestamp <= event.timestamp, event.event_type
    for turn, text in enumerate(TURNS):
        first: dict[str, Event] = {}
        for event in seen.flow(turn):
            if not isinstance(by_id.get(str(event.causation_id)), ProactiveSuggestionEvent):
                first.setdefault(event.event_type, event)
        steps = [first[topic].timestamp for topic in FLOW if topic in first]
        assert steps == sorted(steps), text
        assert len(steps) == len(FLOW) - ("fail now" in text), text


@row("J42", "J52")
def each_of_the_five_inputs_reaches_orchestrator_and_memory(seen: Seen) -> None:
    sound = AudioContent(data=b"x" * 640, duration_ms=20)
    inputs = [
        TextMessageEvent.model_validate({"stream_id": "inputs", "content": {"text": "Hello"}}),
        AudioChunkEvent(stream_id="inputs", content=sound),
        VideoFrameEvent(stream_id="inputs", content=VideoContent(data=b"x", width=1, height=1)),
        StreamStartedEvent(stream_id="inputs"),
        StreamEndedEvent(stream_id="inputs"),
    ]
    for event in inputs:
        assert {"orchestrator.understand", "memory.remember"} <= set(seen.heard(event)), event.event_type
    settle(seen.team)
    assert all(seen.handled("orchestrator.understand", event) for event in inputs)


@row("J43", "J44", "J45")
def what_the_orchestrator_hears_twice_has_one_effect(seen: Seen) -> None:
    for kind, subscription in (
        (ContextAssembledEvent, "orchestrator.ask_model_parts"),
        (ToolResultEvent, "orchestrator.collect_tool_results"),
        (ResponseGeneratedEvent, "orchestrator.respond"),
    ):
        for event in seen.of(kind)[:3]:
            assert seen.handled(subscription, event)
            assert seen.delivered_again(subscription, event) == []
            assert seen.delivered_again(subscription, event, as_new=True) == []


@row("two tools")
def the_model_waits_for_both_tools(seen: Seen) -> None:
    turn = TURNS.index("What is 2 + 2 and what time is it in Tokyo?")
    order = [event.event_type for event in seen.flow(turn)]
    assert order.count("tools.execution.completed") == 2
    last_tool = max(place for place, topic in enumerate(order) if topic == "tools.execution.completed")
    assert last_tool < order.index("orchestrator.llm.requested")
    answer = next(event for event in seen.flow(turn) if isinstance(event, ResponseGeneratedEvent)).content.text
    assert "4" in answer
    assert "Tokyo" in answer


@row("J46")
def a_tool_that_fails_still_leads_to_an_answer(seen: Seen) -> None:
    for text in ("What is 1 / 0?", "What is the weather in Rome?"):
        topics = seen.topics(TURNS.index(text))
        assert (topics["tools.execution.failed"], topics["orchestrator.response.ready"]) == (1, 1), text


@row("J47")
def a_message_has_its_intent_classified_and_sound_has_not(seen: Seen) -> None:
    assert [seen.topics(turn)["orchestrator.intent.classified"] for turn in range(len(TURNS))] == [1] * len(TURNS)
    sound = AudioChunkEvent(stream_id="sound", content=AudioContent(data=b"x" * 640, duration_ms=20))
    events = seen.team.send_through(sound)
    assert "orchestrator.intent.classified" not in {event.event_type for event in events}


@row("J48", "J57")
def context_is_requested_once_for_each_message_and_comes(seen: Seen) -> None:
    for turn in range(len(TURNS)):
        topics = seen.topics(turn)
        assert (topics["orchestrator.context.requested"], topics["memory.context.assembled"]) == (1, 1)


@row("J49")
def two_calls_have_two_ids(seen: Seen) -> None:
    turn = TURNS.index("What is 2 + 2 and what time is it in Tokyo?")
    (requested,) = [event for event in seen.flow(turn) if isinstance(event, ToolsRequestedEvent)]
    assert len({call.call_id for call in requested.content.calls}) == 2


@row("J50", "J51")
def the_model_is_asked_and_the_response_ready_once_for_each_message(seen: Seen) -> None:
    for turn in range(len(TURNS)):
        topics = seen.topics(turn)
        assert (topics["orchestrator.llm.requested"], topics["orchestrator.response.ready"]) == (1, 1)


@row("J53")
def a_request_for_context_without_a_past_is_answered_with_none(seen: Seen) -> None:
    request = ContextRequestedEvent(stream_id="no-past", content=ContextRequest(query="What is my name?"))
    assembled = seen.team.send_and_wait(request, "memory.context.assembled")
    assert isinstance(assembled, ContextAssembledEvent)
    assert assembled.content.items == ()


@row("J54", "J55", "J56")
def what_was_said_and_found_is_remembered_in_order_and_once(seen: Seen) -> None:
    memories = team_state(seen.team.bus).memories
    kept = memories.read(STREAM)
    spoken = [each.text for each in kept if each.role == "user"]
    assert spoken == list(TURNS[: len(spoken)])
    assert len(spoken) == len(TURNS)
    assert [each.said_at for each in kept] == sorted(each.said_at for each in kept)
    assert {"user", "assistant", "tool"} == {each.role for each in kept}
    for event in (*seen.of(ToolResultEvent)[:2], *seen.of(ResponseGeneratedEvent)[:2], *seen.of(TextMessageEvent)[:2]):
        assert seen.delivered_again("memory.remember", event, as_new=True) == [], event.event_type
    assert memories.read(STREAM) == kept
    asked = next(event for event in seen.flow(TURNS.index("What is my name?")) if isinstance(event, MessageSentEvent))
    assert "Bob" in asked.content.text


@row("J58")
def the_third_equal_question_is_a_pattern_and_the_second_is_none(seen: Seen) -> None:
    first = TURNS.index("When does the shop open?")
    assert [seen.topics(first + n)["memory.pattern.detected"] for n in range(3)] == [0, 0, 1]


@row("J59")
def two_names_are_one_conflict_with_both_values(seen: Seen) -> None:
    conflicts = [event for event in seen.events if event.event_type == "memory.conflict.detected"]
    assert len(conflicts) == 1
    text = conflicts[0].content.model_dump_json()
    assert "Ada" in text
    assert "Bob" in text


@row("J60")
def the_end_of_a_stream_consolidates_its_memory_and_an_empty_one_counts_none(seen: Seen) -> None:
    events = seen.team.send_through(StreamEndedEvent(stream_id="nothing-was-said"))
    done = [event.content.model_dump() for event in events if event.event_type == "memory.consolidation.completed"]
    assert len(done) == 1
    assert set(done[0].values()) == {0}


@row("J61")
def an_unknown_tool_is_a_failure_and_no_dead_letter(seen: Seen) -> None:
    (failed,) = [
        event for event in seen.flow(TURNS.index("What is the weather in Rome?")) if isinstance(event, ToolFailedEvent)
    ]
    assert (failed.content.tool, failed.content.error_type) == ("weather", "unknown_tool")
    assert seen.team.dead_letters() == []


@row("J62", "J63")
def each_call_is_started_and_then_completed_or_failed_under_its_id(seen: Seen) -> None:
    started = {event.content.call_id: event for event in seen.of(ToolStartedEvent)}
    completed = {event.content.call_id: event for event in seen.of(ToolResultEvent)}
    failed = {event.content.call_id: event for event in seen.of(ToolFailedEvent)}
    ended: dict[str, Event] = {**completed, **failed}
    assert started.keys() == ended.keys()
    assert len(seen.of(ToolStartedEvent)) == len(started)
    assert len(seen.of(ToolResultEvent)) + len(seen.of(ToolFailedEvent)) == len(ended)
    assert all(started[call].timestamp <= ended[call].timestamp for call in started)


@row("J64")
def progress_rises_and_ends_with_the_call(seen: Seen) -> None:
    flow = seen.flow(TURNS.index("How many primes are below 100000?"))
    order = [event for event in flow if event.event_type.startswith("tools.execution.")]
    percents = [event.content.percent for event in order if isinstance(event, ToolProgressEvent)]
    assert len(percents) == 5
    assert percents == sorted(percents)
    assert order[-1].event_type == "tools.execution.completed"


@row("J65")
def an_answer_and_a_suggestion_are_both_delivered(seen: Seen) -> None:
    suggestion = ProactiveSuggestion(text="Take a rest", reason="it is late", confidence=0.9, cooldown_key="rest")
    for event in (
        ResponseReadyEvent(stream_id="both", content=FormattedResponse(text="84")),
        ProactiveSuggestionEvent(stream_id="both", content=suggestion),
    ):
        sent = [each for each in seen.team.send_through(event) if isinstance(each, MessageSentEvent)]
        assert sorted(each.content.channel for each in sent) == ["mailbox", "webhook"]


@row("J66")
def a_suggestion_for_an_ended_stream_is_dropped(seen: Seen) -> None:
    input_agent.receive("Hello", stream_id="over", publish=seen.team.publish)
    end_session("over", bus=seen.team.bus)
    settle(seen.team)
    suggestion = ProactiveSuggestion(text="Take a rest", reason="it is late", confidence=0.9, cooldown_key="rest")
    events = seen.team.send_through(ProactiveSuggestionEvent(stream_id="over", content=suggestion))
    assert [
        isinstance(event, SuggestionDroppedEvent) for event in events if event.event_type.startswith("output.")
    ] == [True]


@row("J67", "J69")
def a_message_sent_has_text_channel_and_id_and_was_formatted_before(seen: Seen) -> None:
    sent = seen.of(MessageSentEvent)
    assert all(event.content.text and event.content.channel and event.content.message_id for event in sent)
    assert len({(event.content.message_id, event.content.channel) for event in sent}) == len(sent)
    formatted = {
        (event.causation_id, event.content.channel): event.timestamp  # type: ignore[attr-defined]  # of that type
        for event in seen.events
        if event.event_type == "output.formatting.completed"
    }
    assert all(formatted[event.causation_id, event.content.channel] < event.timestamp for event in sent)


@row("J68")
def a_channel_that_is_down_is_tried_three_times_and_told_once(seen: Seen) -> None:
    response = ResponseReadyEvent(stream_id="unreachable", content=FormattedResponse(text="nobody reads this"))
    events = seen.team.send_through(response, timeout=20)
    (failed,) = [event for event in events if isinstance(event, MessageFailedEvent)]
    (sent,) = [event for event in events if isinstance(event, MessageSentEvent)]
    assert (failed.content.channel, sent.content.channel) == ("webhook", "mailbox")
    assert [text for _, text in seen.posted].count("nobody reads this") == 3


@row("J70")
def what_was_delivered_is_not_delivered_again(seen: Seen) -> None:
    response = next(event for event in seen.events if isinstance(event, ResponseReadyEvent))
    posted = list(seen.posted)
    assert seen.delivered_again("output.deliver_message", response) == []
    assert seen.posted == posted
    of_stream = {event.content.message_id for event in seen.of(MessageSentEvent)}
    ids = [message_id for message_id, _ in posted if message_id in of_stream]
    assert len(ids) == len(set(ids)) == len(of_stream)


@row("J71")
def all_that_others_say_reaches_the_proactive_agent(seen: Seen) -> None:
    subscription = only_proactive(seen)
    missed = {
        event.event_type
        for event in seen.events
        if "proactive" not in event.path and not seen.handled(subscription, event)
    }
    assert missed == set()
    assert len({event.event_type for event in seen.events}) >= 18


@row("J72")
def a_pattern_of_the_memory_reaches_the_proactive_agent_once(seen: Seen) -> None:
    (pattern,) = [event for event in seen.events if event.event_type == "memory.pattern.detected"]
    assert seen.handled(only_proactive(seen), pattern)


@row("J73")
def three_equal_questions_are_one_suggestion_and_one_message(seen: Seen) -> None:
    suggestions = seen.of(ProactiveSuggestionEvent)
    assert len(suggestions) == 1
    sent = [event for event in seen.of(MessageSentEvent) if event.causation_id == suggestions[0].event_id]
    assert sorted(event.content.channel for event in sent) == ["mailbox", "webhook"]


@row("J74")
def the_proactive_agent_tells_its_patterns_and_does_not_hear_itself(seen: Seen) -> None:
    own = [event for event in seen.events if event.event_type == "proactive.pattern.detected"]
    assert own
    assert not any(seen.handled(only_proactive(seen), event) for event in own)


@row("J75")
def failures_upon_failures_call_for_somebody(seen: Seen) -> None:
    assert [event for event in seen.events if event.event_type == "proactive.intervention.needed"]


@row("J76")
def the_number_of_events_becomes_constant(seen: Seen) -> None:
    assert is_quiet(seen.team, for_s=1.0)


@row("J77")
def a_model_that_is_away_is_a_failure_event_and_an_apology(seen: Seen) -> None:
    flow = seen.flow(TURNS.index("Please fail now."))
    (failed,) = [event for event in flow if isinstance(event, ResponseFailedEvent)]
    (ready,) = [event for event in flow if isinstance(event, ResponseReadyEvent)]
    assert (failed.content.error_type, failed.content.is_retryable) == ("ProviderUnavailable", True)
    assert "sorry" in ready.content.text
    assert len(seen.of(ResponseGeneratedEvent)) == len(TURNS) - 1


@row("slow model")
def a_slow_model_holds_up_its_own_turn(seen: Seen) -> None:
    flow = seen.flow(TURNS.index("Please answer slowly: why is the sky blue?"))
    times = {event.event_type: event.timestamp for event in flow}
    waited = times["llm.response.generated"] - times["orchestrator.llm.requested"]
    assert waited.total_seconds() >= SLOW_S


def only_proactive(seen: Seen) -> str:
    (name,) = [each for each in Inside(seen.team).subscriptions() if each.startswith("proactive.")]
    return name


# The walk


def fails(look: Callable[[Seen], None], seen: Seen) -> str:
    """Look at a row; returns why it is not seen, or nothing."""
    try:
        look(seen)
    except (AssertionError, ValueError, StopIteration, TimeoutError) as error:
        return f"{look.__name__}: {type(error).__name__}: {error}"
    return ""


def test_the_table_has_every_row():
    assert {f"J{number}" for number in range(42, 78)} <= ROWS.keys()


@pytest.mark.timeout(120)
def test_a_conversation_of_20_turns_shows_every_row_of_the_contracts(seen):
    assert len(TURNS) == 20

    looked = {look: fails(look, seen) for look in dict.fromkeys(ROWS.values())}
    found = {name: looked[look] for name, look in ROWS.items()}

    assert {name: why for name, why in found.items() if why} == {}
