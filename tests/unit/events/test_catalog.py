"""Every event type of both founding documents and of our own, written out here: none can be lost unnoticed."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from collections import Counter, defaultdict
from textwrap import dedent

import pytest

from petiole.events import (
    AssembledContext,
    AudioChunkEvent,
    AudioContent,
    Category,
    ClassifiedIntent,
    Content,
    ContextAssembledEvent,
    ErrorEvent,
    Event,
    EventRegistry,
    FormattedResponse,
    GeneratedResponse,
    IntentClassifiedEvent,
    ProactiveSuggestion,
    ProactiveSuggestionEvent,
    RequestEvent,
    ResponseGeneratedEvent,
    ResponseReadyEvent,
    Severity,
    TextContent,
    TextMessageEvent,
    ToolResult,
    ToolResultEvent,
    VideoContent,
    VideoFrameEvent,
    catalog,
)
from petiole.events.catalog import event_classes
from petiole.events.catalog.agent import AgentStartedEvent
from petiole.events.catalog.component import FeatureFailedEvent
from petiole.events.catalog.message import CustomEvent, MessageEvent
from petiole.events.catalog.proactive import PatternDetectedEvent
from petiole.events.catalog.request import ResponseFailureEvent, ResponseSuccessEvent
from petiole.events.catalog.system import SystemStartedEvent, TickEvent

REGISTRY = EventRegistry(allows_undeclared=True)

JANUS = {
    "input.message.received": Category.INPUT,
    "input.audio.chunk": Category.INPUT,
    "input.video.frame": Category.INPUT,
    "input.stream.started": Category.INPUT,
    "input.stream.ended": Category.INPUT,
    "orchestrator.intent.classified": Category.PROCESSING,
    "orchestrator.context.requested": Category.PROCESSING,
    "orchestrator.tools.requested": Category.PROCESSING,
    "orchestrator.llm.requested": Category.PROCESSING,
    "orchestrator.response.ready": Category.OUTPUT,
    "memory.context.assembled": Category.PROCESSING,
    "memory.pattern.detected": Category.PROCESSING,
    "memory.conflict.detected": Category.PROCESSING,
    "memory.consolidation.completed": Category.PROCESSING,
    "tools.execution.requested": Category.PROCESSING,
    "tools.approval.requested": Category.PROCESSING,
    "tools.approval.granted": Category.PROCESSING,
    "tools.approval.denied": Category.PROCESSING,
    "tools.approval.deadline_reached": Category.PROCESSING,
    "tools.approval.expired": Category.PROCESSING,
    "tools.execution.started": Category.PROCESSING,
    "tools.execution.completed": Category.INPUT,
    "tools.execution.failed": Category.PROCESSING,
    "tools.execution.progress": Category.PROCESSING,
    "llm.response.generated": Category.PROCESSING,
    "llm.response.failed": Category.PROCESSING,
    "output.message.sent": Category.OUTPUT,
    "output.message.failed": Category.OUTPUT,
    "output.formatting.completed": Category.OUTPUT,
    "proactive.suggestion.ready": Category.OUTPUT,
    "proactive.pattern.detected": Category.PROCESSING,
    "proactive.intervention.needed": Category.PROCESSING,
}

KAIREI = {
    Category.SYSTEM: [
        "system.tick",
        "system.metrics.summary",
        "system.created",
        "system.features.registered",
        "system.providers.registered",
        "system.world.registered",
        "system.builtin_agents.registered",
        "system.user_agents.registered",
        "system.starting",
        "system.started",
        "system.stopping",
        "system.stopped",
    ],
    Category.AGENT: [
        "agent.created",
        "agent.added",
        "agent.removed",
        "agent.starting",
        "agent.started",
        "agent.stopping",
        "agent.stopped",
        "agent.state.updated",
        "agent.failed",
        "message.greeting",
        "custom.data_updated",
    ],
    Category.REQUEST: ["request.made"],
    Category.RESPONSE: ["response.succeeded", "response.failed"],
    Category.COMPONENT: [
        "feature.status.updated",
        "feature.failed",
        "provider.registered",
        "provider.status.updated",
        "provider.stopped",
        "provider.primary.set",
    ],
}
KAIREI_BY_TOPIC = {topic: category for category, topics in KAIREI.items() for topic in topics}

OURS = {
    "flow.cancelled": Category.SYSTEM,
    "input.webhook.received": Category.INPUT,
    "memory.items.forgotten": Category.PROCESSING,
    "dead_letters.replay.requested": Category.SYSTEM,
    "dead_letters.letter.replayed": Category.SYSTEM,
    "operator.action.recorded": Category.SYSTEM,
    "dead_letters.letter.edited": Category.SYSTEM,
    "dead_letters.letter.discarded": Category.SYSTEM,
    "dead_letters.import.completed": Category.SYSTEM,
    "system.worker.stalled": Category.SYSTEM,
    "system.circuit.opened": Category.SYSTEM,
    "system.circuit.half_opened": Category.SYSTEM,
    "system.circuit.closed": Category.SYSTEM,
    "llm.usage.recorded": Category.PROCESSING,
    "response.unmatched": Category.RESPONSE,
    "aggregation.completed": Category.PROCESSING,
    "orchestrator.tools.prepared": Category.PROCESSING,
    "memory.consolidation.due": Category.PROCESSING,
    "output.suggestion.dropped": Category.OUTPUT,
    "stream.gap.detected": Category.PROCESSING,
    "stream.speech.started": Category.PROCESSING,
    "stream.speech.stopped": Category.PROCESSING,
    "stream.speech.captured": Category.PROCESSING,
    "stream.transcription.updated": Category.PROCESSING,
    "stream.utterance.completed": Category.PROCESSING,
    "stream.scene.changed": Category.PROCESSING,
    "stream.check.due": Category.PROCESSING,
    "output.audio.chunk": Category.OUTPUT,
    "output.speech.interrupted": Category.OUTPUT,
}

NINE_NAMED_CLASSES: list[tuple[type[Event], str, type[Content], Category]] = [
    (TextMessageEvent, "input.message.received", TextContent, Category.INPUT),
    (AudioChunkEvent, "input.audio.chunk", AudioContent, Category.INPUT),
    (VideoFrameEvent, "input.video.frame", VideoContent, Category.INPUT),
    (ToolResultEvent, "tools.execution.completed", ToolResult, Category.INPUT),
    (IntentClassifiedEvent, "orchestrator.intent.classified", ClassifiedIntent, Category.PROCESSING),
    (ContextAssembledEvent, "memory.context.assembled", AssembledContext, Category.PROCESSING),
    (ResponseGeneratedEvent, "llm.response.generated", GeneratedResponse, Category.PROCESSING),
    (ResponseReadyEvent, "orchestrator.response.ready", FormattedResponse, Category.OUTPUT),
    (ProactiveSuggestionEvent, "proactive.suggestion.ready", ProactiveSuggestion, Category.OUTPUT),
]


@pytest.mark.parametrize(("topic", "category"), [*JANUS.items(), *KAIREI_BY_TOPIC.items(), *OURS.items()])
def test_every_topic_has_a_class_words_about_it_and_its_category(topic: str, category: Category) -> None:
    event_type = REGISTRY.get(topic)

    assert event_type is not None
    assert event_type.is_builtin
    assert event_type.model.category is category
    assert event_type.description.endswith(".")
    assert len(event_type.description.split()) >= 3


def test_the_kairei_kinds_are_thirty_two_in_the_numbers_that_its_source_has() -> None:
    counts = Counter(KAIREI_BY_TOPIC.values())

    assert counts == {
        Category.SYSTEM: 12,
        Category.AGENT: 11,
        Category.REQUEST: 1,
        Category.RESPONSE: 2,
        Category.COMPONENT: 6,
    }
    assert sum(counts.values()) == 32


def test_the_catalog_holds_nothing_but_both_documents_our_own_and_the_error_channel() -> None:
    open_families = {"message.*", "custom.*", "error.*"}
    written_out = {topic for topic in JANUS | KAIREI_BY_TOPIC | OURS if not topic.startswith(("message.", "custom."))}

    assert {event_type.topic for event_type in REGISTRY.all()} == written_out | open_families


@pytest.mark.parametrize(("model", "topic", "content", "category"), NINE_NAMED_CLASSES)
def test_a_class_that_the_janus_document_names_is_bound_to_its_topic_content_and_family(
    model: type[Event], topic: str, content: type[Content], category: Category
) -> None:
    event_type = REGISTRY.get(topic)

    assert event_type is not None
    assert event_type.model is model
    assert model.model_fields["content"].annotation is content
    assert model.category is category


def test_the_nine_named_classes_are_four_of_input_three_of_processing_and_two_of_output() -> None:
    counts = Counter(model.category for model, _, _, _ in NINE_NAMED_CLASSES)

    assert counts == {Category.INPUT: 4, Category.PROCESSING: 3, Category.OUTPUT: 2}


def test_every_file_of_the_catalog_is_listed_with_the_families_of_its_topics() -> None:
    files = {file.name for file in pkgutil.iter_modules(catalog.__path__)}
    listed = {file for files_of_family in catalog.FILES_BY_FAMILY.values() for file in files_of_family}
    found: defaultdict[str, set[str]] = defaultdict(set)
    for event_type in REGISTRY.all():
        found[event_type.topic.partition(".")[0]].add(event_type.model.__module__.rpartition(".")[2])

    assert listed == files
    assert found == {family: set(files_of_family) for family, files_of_family in catalog.FILES_BY_FAMILY.items()}


def test_a_family_is_found_without_the_files_of_the_others() -> None:
    program = """
        import sys
        from petiole.events import registry
        assert registry.get("llm.usage.recorded") and registry.get("no.such.type") is None
        print(*sorted(name for name in sys.modules if name.startswith("petiole.events.catalog.")))
    """

    loaded = subprocess.run([sys.executable, "-c", dedent(program)], capture_output=True, text=True, check=True)

    assert loaded.stdout.split() == [f"petiole.events.catalog.{file}" for file in ("llm", "message", "usage")]


def test_no_two_classes_share_a_name_or_a_topic() -> None:
    classes = list(event_classes())

    assert len({model.__name__ for model in classes}) == len(classes)
    assert len({event_type.topic for event_type in REGISTRY.all()}) == len(classes)


def test_every_class_is_named_as_an_event_and_every_topic_is_in_the_registry_under_one_class() -> None:
    for event_type in REGISTRY.all():
        assert event_type.model.__name__.endswith("Event")
        assert event_type.schema_version == 1


@pytest.mark.parametrize("topic", ["error.reported", "error.dead_lettered", "error.agent.memory"])
def test_any_topic_below_the_word_error_is_an_error_event(topic: str) -> None:
    event_type = REGISTRY.get(topic)

    assert event_type is not None
    assert (event_type.model, event_type.model.category) == (ErrorEvent, Category.ERROR)


def test_an_error_event_is_a_most_urgent_warning_unless_it_says_otherwise() -> None:
    event = ErrorEvent.model_validate({"content": {"error_type": "Timeout", "message": "The model was silent."}})

    assert (event.event_type, event.stream_id, event.priority) == ("error.reported", "system", 9)
    assert event.content.severity is Severity.WARNING


def test_what_the_system_says_of_itself_needs_no_stream() -> None:
    assert SystemStartedEvent().stream_id == "system"
    assert AgentStartedEvent.model_validate({"content": {"agent": "memory"}}).stream_id == "system"
    assert FeatureFailedEvent.model_validate({"content": {"feature": "f", "error": "e"}}).stream_id == "system"


def test_steps_of_the_systems_life_go_first_and_ticks_and_suggestions_last() -> None:
    tick = TickEvent.model_validate({"content": {"interval_s": 1.0, "slot": 0}})
    suggestion = PatternDetectedEvent.model_validate(
        {"stream_id": "s", "content": {"pattern": "p", "occurrences": 3, "window": "PT1H"}}
    )

    assert SystemStartedEvent().priority == 9
    assert (tick.priority, suggestion.priority) == (0, 1)


def test_the_four_facts_of_a_request_stand_unchanged_in_both_kinds_of_answer() -> None:
    request = RequestEvent.model_validate(
        {"content": {"request_type": "get_user", "requester": "web", "responder": "users"}}
    )
    facts = request.content.model_dump(exclude={"parameters"})

    success = request.caused(ResponseSuccessEvent, content=facts | {"parameters": {"response": {"name": "Ada"}}})
    failure = request.caused(ResponseFailureEvent, content=facts | {"error_type": "NotFound", "error": "no such user"})

    assert set(facts) == {"request_type", "requester", "responder", "request_id"}
    assert success.content.model_dump(include=set(facts)) == facts
    assert failure.content.model_dump(include=set(facts)) == facts
    assert success.content.parameters == {"response": {"name": "Ada"}}


def test_messages_and_custom_events_know_their_name_without_the_familys_word() -> None:
    message = MessageEvent(event_type="message.greeting.formal", stream_id="s")
    custom = CustomEvent(event_type="custom.data_updated", stream_id="s")

    assert message.content_type == "greeting.formal"
    assert custom.name == "data_updated"
