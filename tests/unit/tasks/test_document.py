from __future__ import annotations

import json

import pytest

from petiole.events import EventContext, MessageEvent, TextContent, TextMessageEvent, registry
from petiole.events.errors import InvalidEvent, UsageError
from petiole.tasks.broker.topology import broker_priority
from petiole.tasks.publishing.document import validate_event
from tests.support.errors import has_code

LIMIT = 10_000


def a_document(**fields: object) -> dict[str, object]:
    event = TextMessageEvent(stream_id="s", content=TextContent(text="hi"))
    document: dict[str, object] = json.loads(event.model_dump_json())
    return document | fields


def test_an_event_is_validated_with_its_json_object():
    event = TextMessageEvent(stream_id="s", content=TextContent(text="hi"))

    validated = validate_event(event, registry, LIMIT)

    assert validated.event == event
    assert registry.parse(validated.document) == event


def test_a_json_object_is_parsed_as_its_class():
    validated = validate_event(a_document(), registry, LIMIT)

    assert isinstance(validated.event, TextMessageEvent)


def test_a_cloudevent_is_parsed_as_its_class():
    event = TextMessageEvent(stream_id="s", content=TextContent(text="hi"))

    assert validate_event(event.to_cloudevent(), registry, LIMIT).event == event


def test_an_event_above_the_limit_is_refused_with_both_sizes():
    event = TextMessageEvent(stream_id="s", content=TextContent(text="x" * LIMIT))

    with pytest.raises(
        UsageError, check=has_code("event_too_large"), match=r"10,\d{3} bytes as JSON, the limit is 10,000"
    ):
        validate_event(event, registry, LIMIT)


def test_an_instance_made_without_validation_is_refused():
    event = TextMessageEvent.model_construct(  # type: ignore[call-arg]  # fields are missing on purpose
        event_type="input.message.received", content=TextContent(text="hi"), context=EventContext()
    )

    with pytest.raises(InvalidEvent, check=has_code("missing_field"), match="stream_id"):
        validate_event(event, registry, LIMIT)


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"priority": 99}, "priority"), ({"content": TextContent.model_construct(text="")}, "content.text")],
)
def test_a_copy_with_a_change_that_breaks_the_schema_is_refused(changes, field):
    event = TextMessageEvent(stream_id="s", content=TextContent(text="hi")).model_copy(update=changes)

    with pytest.raises(InvalidEvent) as caught:
        validate_event(event, registry, LIMIT)

    assert caught.value.field == field


def test_free_form_values_that_were_changed_to_what_json_cannot_represent_are_refused():
    event = MessageEvent(event_type="message.note", stream_id="s")
    event.content.parameters["nested"] = [[]] * 3 + [{"id": 2**70}]

    with pytest.raises(InvalidEvent, match="does not fit in 64 bits"):
        validate_event(event, registry, LIMIT)


def test_an_instance_of_another_topics_class_is_refused():
    event = TextMessageEvent(stream_id="s", content=TextContent(text="hi"))
    mistyped = event.model_copy(update={"event_type": "input.audio.chunk"})

    with pytest.raises(InvalidEvent, check=has_code("wrong_type"), match="AudioChunkEvent"):
        validate_event(mistyped, registry, LIMIT)


def test_an_unknown_type_is_refused_with_the_nearest_name():
    with pytest.raises(UsageError, check=has_code("unknown_event_type"), match="did you mean 'input"):
        validate_event(a_document(event_type="input.mesage.received"), registry, LIMIT)


def test_nan_is_refused_with_the_field():
    with pytest.raises(InvalidEvent, check=has_code("invalid_value"), match="extra"):
        validate_event(a_document(context={"extra": {"share": float("nan")}}), registry, LIMIT)


@pytest.mark.parametrize(("priority", "driver", "expected"), [(9, "redis", 0), (0, "redis", 9), (9, "amqp", 9)])
def test_priority_9_is_first_on_every_broker(priority, driver, expected):
    assert broker_priority(priority, driver) == expected


def test_an_event_of_more_values_than_a_worker_parses_is_refused():
    event = a_document(context={"extra": {"samples": [0] * 600_000}})

    with pytest.raises(InvalidEvent, check=has_code("invalid_value"), match="more than 500,000 values"):
        validate_event(event, registry, 8_388_608)
