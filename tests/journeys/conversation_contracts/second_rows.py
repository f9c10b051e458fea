"""The second half of the contracts' rows."""

from __future__ import annotations

from petiole.events import (
    Event,
    FormattedResponse,
    ProactiveSuggestion,
    ProactiveSuggestionEvent,
    ResponseReadyEvent,
    ToolResultEvent,
)
from petiole.events.catalog.llm import ResponseFailedEvent, ResponseGeneratedEvent
from petiole.events.catalog.output import MessageFailedEvent, MessageSentEvent, SuggestionDroppedEvent
from petiole.events.catalog.tools import ToolFailedEvent, ToolProgressEvent, ToolStartedEvent
from petiole.tasks import end_session
from petiole.workers.agents import input as input_agent
from tests.journeys.conversation_contracts.conversation import (
    SLOW_S,
    TURNS,
    Seen,
    only_proactive,
    row,
)
from tests.support.inside import is_quiet, settle


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
