from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import pytest

from petiole.events import (
    Content,
    CustomEvent,
    Event,
    EventContext,
    EventRegistry,
    MessageEvent,
    TextContent,
    TextMessageEvent,
)
from petiole.events.content import Text
from petiole.events.errors import InvalidEvent, UsageError
from tests.support.errors import has_code

REGISTRY = EventRegistry(allows_undeclared=True)

FULL = TextMessageEvent(
    event_id="0192f0c1-7a5e-7cc3-98c8-3f1d2b6a9e10",
    stream_id="conversation-1",
    timestamp=datetime(2026, 1, 31, 12, 0, 0, 5, tzinfo=UTC),
    content=TextContent(text="Hello", language="en"),
    context=EventContext(source="telegram", user_id="u-1", extra={"locale": {"language": "en"}}),
    correlation_id="flow-7",
    causation_id="0192f0c1-7a5e-7cc3-98c8-000000000001",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    hops=2,
    path=("input", "orchestrator"),
    priority=7,
    expires_at=datetime(2026, 1, 31, 13, 0, tzinfo=UTC),
)


class Letter(Content):
    title: Text
    content: Text


class LetterReceivedEvent(Event):
    """A letter arrived."""

    event_type: Literal["letter.received"] = "letter.received"
    content: Letter


# What another system might send: what CloudEvents 1.0 requires, some of what it offers, and plain data.
FOREIGN: dict[str, object] = {
    "specversion": "1.0",
    "id": "0192f0c1-7a5e-7cc3-98c8-3f1d2b6a9e10",
    "source": "/shop/checkout",
    "type": "input.message.received",
    "subject": "conversation-1",
    "time": "2026-01-31T12:00:00Z",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "data": {"text": "Hello"},
}


def test_an_event_is_written_as_the_attributes_that_cloudevents_and_its_extensions_define() -> None:
    assert FULL.to_cloudevent() == {
        "specversion": "1.0",
        "id": "0192f0c1-7a5e-7cc3-98c8-3f1d2b6a9e10",
        "source": "telegram",
        "type": "input.message.received",
        "time": "2026-01-31T12:00:00.000005Z",
        "subject": "conversation-1",
        "partitionkey": "conversation-1",
        "datacontenttype": "application/json",
        "correlationid": "flow-7",
        "causationid": "0192f0c1-7a5e-7cc3-98c8-000000000001",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "expirytime": "2026-01-31T13:00:00Z",
        "hops": 2,
        "path": "input,orchestrator",
        "priority": 7,
        "schemaversion": 1,
        "data": {
            "content": {"text": "Hello", "language": "en"},
            "context": {
                "source": "telegram",
                "user_id": "u-1",
                "session_id": None,
                "extra": {"locale": {"language": "en"}},
            },
        },
    }


def test_the_attributes_are_named_and_typed_as_cloudevents_asks() -> None:
    attributes = {name: value for name, value in FULL.to_cloudevent().items() if name != "data"}

    for name, value in attributes.items():
        assert name.isalnum()
        assert name == name.lower()
        assert isinstance(value, str | int)


def test_what_an_event_does_not_have_is_left_out_and_not_written_as_null() -> None:
    event = TextMessageEvent(stream_id="conversation-1", content=TextContent(text="Hello"))

    document = event.to_cloudevent()

    assert not {"causationid", "expirytime", "path"} & set(document)
    assert None not in document.values()


def test_a_cloudevent_is_read_back_as_the_event_it_was_by_its_class_and_by_the_registry() -> None:
    document = FULL.to_cloudevent()

    assert TextMessageEvent.from_cloudevent(document) == FULL
    assert REGISTRY.parse_cloudevent(document) == FULL


def test_a_cloudevent_of_another_system_is_read_with_its_data_as_the_content() -> None:
    event = REGISTRY.parse_cloudevent(FOREIGN)

    assert isinstance(event, TextMessageEvent)
    assert (event.content, event.stream_id) == (TextContent(text="Hello"), "conversation-1")
    assert event.event_id == FOREIGN["id"]
    assert event.context == EventContext(source="/shop/checkout")
    assert event.correlation_id == event.event_id


def test_attributes_of_other_vocabularies_are_passed_over() -> None:
    document = FOREIGN | {"dataschema": "https://example.com/message.json", "comexampleextension": "x"}

    assert REGISTRY.parse_cloudevent(document) == REGISTRY.parse_cloudevent(FOREIGN)


@pytest.mark.parametrize("required", ["specversion", "id", "source", "type"])
def test_a_document_without_a_required_attribute_is_refused_by_its_name(required: str) -> None:
    document = {name: value for name, value in FOREIGN.items() if name != required}

    for read in (REGISTRY.parse_cloudevent, TextMessageEvent.from_cloudevent):
        with pytest.raises(InvalidEvent, check=has_code("missing_field")) as caught:
            read(document)
        assert caught.value.field == required


def test_a_cloudevent_of_a_version_that_is_not_known_is_refused() -> None:
    with pytest.raises(InvalidEvent, check=has_code("invalid_value"), match=r"is '0\.3'; only '1\.0' is supported"):
        REGISTRY.parse_cloudevent(FOREIGN | {"specversion": "0.3"})


def test_a_repeated_cloudevent_is_the_same_event_and_not_a_new_one() -> None:
    first, second = REGISTRY.parse_cloudevent(FOREIGN), REGISTRY.parse_cloudevent(FOREIGN)

    assert first.event_id == second.event_id


@pytest.mark.parametrize("data", [None, "Hello", ["Hello"], {}, {"txt": "Hello"}])
def test_data_that_is_not_the_content_of_its_type_is_refused_by_the_name_of_the_field(data: object) -> None:
    with pytest.raises(InvalidEvent) as caught:
        REGISTRY.parse_cloudevent(FOREIGN | {"data": data})

    assert caught.value.field.startswith("content")


def test_an_id_that_is_no_uuid_is_refused() -> None:
    with pytest.raises(InvalidEvent, check=has_code("invalid_value")) as caught:
        REGISTRY.parse_cloudevent(FOREIGN | {"id": "order-17"})

    assert (caught.value.field, "UUID" in caught.value.reason) == ("event_id", True)


def test_a_time_without_a_zone_is_refused_here_too() -> None:
    with pytest.raises(InvalidEvent, check=has_code("invalid_value")) as caught:
        REGISTRY.parse_cloudevent(FOREIGN | {"time": "2026-01-31T12:00:00"})

    assert (caught.value.field, "no time zone" in caught.value.reason) == ("timestamp", True)


def test_a_cloudevent_of_an_unknown_type_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(
        UsageError, check=has_code("unknown_event_type"), match=r"did you mean 'input\.message\.received'\?"
    ):
        REGISTRY.parse_cloudevent(FOREIGN | {"type": "input.mesage.received"})


@pytest.mark.parametrize("kind", [MessageEvent, CustomEvent])
def test_a_class_does_not_read_a_cloudevent_of_another_type(kind: type[Event]) -> None:
    with pytest.raises(InvalidEvent):
        kind.from_cloudevent(FULL.to_cloudevent())


def test_a_whole_number_written_as_text_is_refused_here_too() -> None:
    with pytest.raises(InvalidEvent, check=has_code("wrong_type")) as caught:
        REGISTRY.parse_cloudevent(FULL.to_cloudevent() | {"priority": "7"})

    assert caught.value.field == "priority"


def test_our_content_may_hold_parameters_that_are_named_like_ours() -> None:
    event = MessageEvent.model_validate(
        {
            "event_type": "message.letter",
            "stream_id": "s",
            "content": {"parameters": {"content": {"parameters": {}}, "context": 1}},
        }
    )

    assert REGISTRY.parse_cloudevent(event.to_cloudevent()) == event


def test_data_of_another_system_may_have_a_field_named_content_beside_others() -> None:
    registry = EventRegistry()
    registry.register(LetterReceivedEvent)
    document = FOREIGN | {
        "type": "letter.received",
        "data": {"title": "Dear Ada", "content": "I write to you"},
    }

    event = registry.parse_cloudevent(document)

    assert event.content == Letter(title="Dear Ada", content="I write to you")


def test_event_itself_says_who_reads_a_cloudevent_of_any_class() -> None:
    event = TextMessageEvent(stream_id="s", content=TextContent(text="hi"))

    with pytest.raises(UsageError, match="parse_cloudevent"):
        Event.from_cloudevent(event.to_cloudevent())
