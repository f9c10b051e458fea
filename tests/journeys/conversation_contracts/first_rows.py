"""The first half of the contracts' rows."""

from __future__ import annotations

from petiole.events import (
    AudioChunkEvent,
    AudioContent,
    Event,
    ProactiveSuggestionEvent,
    TextMessageEvent,
    ToolResultEvent,
    VideoContent,
    VideoFrameEvent,
)
from petiole.events.catalog.llm import ResponseGeneratedEvent
from petiole.events.catalog.memory import ContextAssembledEvent
from petiole.events.catalog.orchestrator import ContextRequest, ContextRequestedEvent, ToolsRequestedEvent
from petiole.events.catalog.output import MessageSentEvent
from petiole.events.catalog.session import StreamEndedEvent, StreamStartedEvent
from tests.journeys.conversation_contracts.conversation import (
    FLOW,
    STREAM,
    TURNS,
    Seen,
    row,
)
from tests.support.inside import Inside, settle


@row("every turn")
def every_turn_is_answered_once_by_each_channel(seen: Seen) -> None:
    for turn, text in enumerate(TURNS):
        answers = [
            event for event in seen.flow(turn) if isinstance(event, MessageSentEvent) and event.content.kind == "answer"
        ]
        assert sorted(event.content.channel for event in answers) == ["mailbox", "webhook"], text
        assert len({event.content.text for event in answers}) == 1, text


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
def each_input_reaches_orchestrator_and_memory_except_for_sound_and_pictures(seen: Seen) -> None:
    readers = {"orchestrator.understand", "memory.remember"}
    inputs = [
        TextMessageEvent.model_validate({"stream_id": "inputs", "content": {"text": "Hello"}}),
        StreamStartedEvent(stream_id="inputs"),
        StreamEndedEvent(stream_id="inputs"),
    ]
    media = [
        AudioChunkEvent(stream_id="media", content=AudioContent(data=b"x" * 640, duration_ms=20)),
        VideoFrameEvent(stream_id="media", content=VideoContent(data=b"rgb", format="rgb24", width=1, height=1)),
    ]
    for event in inputs:
        assert readers <= set(seen.heard(event)), event.event_type
    for event in media:
        assert not {*readers, "proactive.watch"} & set(seen.heard(event)), event.event_type
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
    assembled = seen.team.send_event_and_wait(request, "memory.context.assembled")
    assert isinstance(assembled, ContextAssembledEvent)
    assert assembled.content.items == ()


@row("J54", "J55", "J56")
def what_was_said_and_found_is_remembered_in_order_and_once(seen: Seen) -> None:
    kept = Inside(seen.team).remembered(STREAM)
    spoken = [each.text for each in kept if each.role == "user"]
    assert spoken == list(TURNS[: len(spoken)])
    assert len(spoken) == len(TURNS)
    assert [each.said_at for each in kept] == sorted(each.said_at for each in kept)
    assert {"user", "assistant", "tool"} == {each.role for each in kept}
    for event in (*seen.of(ToolResultEvent)[:2], *seen.of(ResponseGeneratedEvent)[:2], *seen.of(TextMessageEvent)[:2]):
        assert seen.delivered_again("memory.remember", event, as_new=True) == [], event.event_type
    assert Inside(seen.team).remembered(STREAM) == kept
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
