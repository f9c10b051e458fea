"""Documents that are read, and refused by field and reason."""

from __future__ import annotations

import json
from typing import Literal

import pytest
from pydantic import ValidationError

from petiole.events import (
    Content,
    Event,
    EventRegistry,
    MessageEvent,
    TextContent,
    TextMessageEvent,
)
from petiole.events.errors import InvalidEvent, UsageError
from tests.support.errors import has_code
from tests.unit.events.registry.orders import (
    Order,
    OrderPlacedEvent,
    a_custom_document,
    a_registry_that_knows_data_updated,
)


class SecondVersionEvent(Event):
    """An event whose content got another field."""

    event_type: Literal["order.shipped"] = "order.shipped"
    schema_version: Literal[1, 2] = 2
    content: Order


def a_document(**fields: object) -> dict[str, object]:
    """Write a text message as a service without this code would."""
    return {
        "event_type": "input.message.received",
        "stream_id": "conversation-1",
        "content": {"text": "Hello"},
    } | fields


def nested_json(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


class TestReading:
    def test_a_document_is_read_as_the_class_of_its_topic(self) -> None:
        event = EventRegistry().parse(a_document())

        assert isinstance(event, TextMessageEvent)
        assert event.content == TextContent(text="Hello")

    @pytest.mark.parametrize(
        ("document", "code", "field", "reason"),
        [
            (a_document(content={}), "missing_field", "content.text", "is required; give it"),
            (a_document(colour="red"), "unknown_field", "colour", "is an unknown field; remove it"),
            (
                a_document(content={"text": "x", "a": 1}),
                "unknown_field",
                "content.a",
                "is an unknown field; remove it",
            ),
            (
                a_document(content={"text": 5}),
                "wrong_type",
                "content.text",
                "input should be a valid string, not 5",
            ),
            (a_document(content=None), "wrong_type", "content", "input should be a valid dictionary"),
            (a_document(priority=True), "wrong_type", "priority", "input should be a valid integer, not True"),
            (a_document(priority="5"), "wrong_type", "priority", "input should be a valid integer, not '5'"),
            (
                a_document(priority=10),
                "invalid_value",
                "priority",
                "input should be less than or equal to 9, not 10",
            ),
            (a_document(hops=2**63), "invalid_value", "hops", "input should be less than"),
            (a_document(stream_id=""), "invalid_value", "stream_id", "is empty; give at least one character"),
            (
                a_document(timestamp="2026-01-31T12:00:00"),
                "invalid_value",
                "timestamp",
                "has no time zone; add one",
            ),
            (
                a_document(timestamp="0001-01-01T00:00:00+14:00"),
                "invalid_value",
                "timestamp",
                "is outside the years",
            ),
            (a_document(event_id="7"), "invalid_value", "event_id", "must be a UUID"),
            ({1: 2} | a_document(), "invalid_value", "1", "keys should be strings"),
        ],
    )
    def test_what_breaks_the_schema_is_refused_by_field_and_reason(
        self, document: dict[str, object], code: str, field: str, reason: str
    ) -> None:
        with pytest.raises(InvalidEvent) as caught:
            EventRegistry().parse(document)

        assert caught.value.code == code
        assert (caught.value.topic, caught.value.field) == ("input.message.received", field)
        assert caught.value.reason.startswith(reason)
        assert isinstance(caught.value.__cause__, ValidationError)

    def test_a_single_mistake_is_not_reported_as_several(self) -> None:
        with pytest.raises(InvalidEvent, check=has_code("missing_field")) as caught:
            EventRegistry().parse(a_document(content={}))

        assert caught.value.reason == "is required; give it"

    def test_of_several_mistakes_the_first_is_told_and_the_others_are_counted(self) -> None:
        with pytest.raises(InvalidEvent, check=has_code("wrong_type")) as caught:
            EventRegistry().parse(a_document(content={"text": 5}, colour="red", priority=10))

        assert caught.value.field == "content.text"
        assert caught.value.reason.endswith("(and 2 more)")

    def test_a_wrong_value_is_shown_but_not_all_ten_megabytes_of_it(self) -> None:
        with pytest.raises(InvalidEvent, check=has_code("wrong_type")) as caught:
            EventRegistry().parse(a_document(priority="x" * 10_000_000))

        assert "'xxx" in caught.value.reason
        assert len(str(caught.value)) < 200

    def test_a_deeply_nested_value_in_a_plain_field_is_refused_and_does_not_overflow_the_stack(self) -> None:
        deep: object = 1
        for _ in range(100_000):
            deep = [deep]

        with pytest.raises(InvalidEvent, check=has_code("wrong_type")) as caught:
            EventRegistry().parse(a_document(priority=deep))

        assert caught.value.field == "priority"

    def test_a_document_without_a_type_is_refused(self) -> None:
        with pytest.raises(InvalidEvent, check=has_code("missing_field")) as caught:
            EventRegistry().parse({"stream_id": "conversation-1"})

        assert caught.value.field == "event_type"

    @pytest.mark.parametrize("topic", [5, True, ["input.message.received"], {}])
    def test_a_type_that_is_no_text_is_refused(self, topic: object) -> None:
        with pytest.raises(InvalidEvent, check=has_code("wrong_type")) as caught:
            EventRegistry().parse(a_document(event_type=topic))

        assert caught.value.field == "event_type"

    @pytest.mark.parametrize(
        ("topic", "nearest"),
        [
            ("input.mesage.received", "input.message.received"),
            ("Input.Message.Received", "input.message.received"),
            ("memory.context.assemble", "memory.context.assembled"),
            ("custom.data_update", "custom.data_updated"),
        ],
    )
    def test_an_unknown_type_is_refused_with_the_nearest_one(self, topic: str, nearest: str) -> None:
        registry = a_registry_that_knows_data_updated()

        with pytest.raises(UsageError, check=has_code("unknown_event_type")) as caught:
            registry.parse(a_document(event_type=topic))

        assert f"event type {topic!r} is not registered; did you mean {nearest!r}?" in str(caught.value)

    @pytest.mark.parametrize("topic", ["zzz", "", "*", "q.w.e"])
    def test_a_type_that_is_like_no_other_is_refused_without_a_guess(self, topic: str) -> None:
        with pytest.raises(UsageError, check=has_code("unknown_event_type")) as caught:
            EventRegistry().parse(a_document(event_type=topic))

        assert "did you mean" not in str(caught.value)

    def test_a_topic_that_breaks_the_grammar_below_an_open_family_is_refused(self) -> None:
        with pytest.raises(InvalidEvent, check=has_code("invalid_value"), match="is invalid; write 1 to 8 words"):
            EventRegistry().parse(a_custom_document({}, topic="message.Not A Topic"))

    def test_a_newer_version_that_does_not_fit_is_refused_by_its_number_and_not_by_its_fields(self) -> None:
        newer = a_document(schema_version=2, content={"words": "Hello"})

        with pytest.raises(InvalidEvent, check=has_code("newer_version")) as caught:
            EventRegistry().parse(newer)

        assert (caught.value.topic, caught.value.field) == ("input.message.received", "schema_version")
        assert caught.value.reason == "is 2, but this process supports versions up to 1; upgrade it first"

    def test_an_older_version_is_read_through_defaults(self) -> None:
        registry = EventRegistry()
        registry.register(SecondVersionEvent)
        older = {
            "event_type": "order.shipped",
            "stream_id": "s",
            "content": {"order_id": "7"},
            "schema_version": 1,
        }

        event = registry.parse(older)

        found = registry.get("order.shipped")
        assert found is not None
        assert (found.schema_version, event.schema_version) == (2, 1)


class TestReadingJson:
    @pytest.mark.parametrize("text", ['{"a": 1', b'{"a": "\xff"}', "", "null and void", '{"a": "\\ud800"}', "{'a': 1}"])
    def test_what_is_no_json_is_refused(self, text: str | bytes) -> None:
        with pytest.raises(InvalidEvent, check=has_code("invalid_value"), match="is not valid JSON"):
            EventRegistry().parse_json(text)

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
    def test_a_number_that_json_does_not_have_is_refused(self, number: str) -> None:
        text = json.dumps(a_custom_document({"key": 0}, topic="message.x")).replace('"key": 0', f'"key": {number}')

        with pytest.raises(InvalidEvent, check=has_code("invalid_value"), match="is not valid JSON"):
            EventRegistry().parse_json(text)

    @pytest.mark.parametrize("number", ["1e999", "-1e999", str(2**63), "9" * 5000])
    def test_a_number_too_large_for_64_bits_is_refused(self, number: str) -> None:
        text = json.dumps(a_custom_document({"key": 0}, topic="message.x")).replace('"key": 0', f'"key": {number}')

        with pytest.raises(InvalidEvent, check=has_code("invalid_value")):
            EventRegistry().parse_json(text)

    @pytest.mark.parametrize(("text", "kind"), [("[]", "list"), ("5", "int"), ('"x"', "str"), ("null", "NoneType")])
    def test_json_that_is_no_object_is_refused_by_what_it_is(self, text: str, kind: str) -> None:
        with pytest.raises(InvalidEvent, check=has_code("wrong_type"), match=f"must be a JSON object, not a {kind}"):
            EventRegistry().parse_json(text)

    def test_values_nested_a_hundred_deep_are_refused_by_the_name_of_their_field(self) -> None:
        text = json.dumps(a_custom_document({}, topic="message.x")).replace("{}", nested_json(100))

        with pytest.raises(
            InvalidEvent, check=has_code("invalid_value"), match="nested more than 32 levels deep"
        ) as caught:
            EventRegistry().parse_json(text)

        assert caught.value.field == "content.parameters"

    def test_json_nested_a_hundred_thousand_deep_is_refused(self) -> None:
        with pytest.raises(InvalidEvent, check=has_code("invalid_value"), match="recursion limit exceeded"):
            EventRegistry().parse_json(nested_json(100_000))

    def test_text_and_bytes_are_read_alike(self) -> None:
        text = json.dumps(a_document(event_id="0192f0c1-7a5e-7cc3-98c8-3f1d2b6a9e10"), ensure_ascii=False)

        from_text, from_bytes = EventRegistry().parse_json(text), EventRegistry().parse_json(text.encode())

        assert from_text.event_id == from_bytes.event_id == "0192f0c1-7a5e-7cc3-98c8-3f1d2b6a9e10"
        assert from_text.content == from_bytes.content


class TestCheckingTheClass:
    def test_an_event_of_its_topics_class_passes(self) -> None:
        registry = EventRegistry()

        registry.check(TextMessageEvent(stream_id="s", content=TextContent(text="Hello")))
        registry.check(MessageEvent(event_type="message.greeting", stream_id="s"))

    def test_an_event_of_another_class_than_its_topics_is_refused_by_both_names(self) -> None:
        posing = Event(event_type="input.message.received", stream_id="s", content=Content())

        with pytest.raises(
            InvalidEvent, check=has_code("wrong_type"), match="belongs to TextMessageEvent, not to Event"
        ) as caught:
            EventRegistry().check(posing)

        assert (caught.value.topic, caught.value.field) == ("input.message.received", "event_type")

    def test_an_event_of_a_class_that_nobody_registered_is_refused(self) -> None:
        event = OrderPlacedEvent(stream_id="s", content=Order(order_id="7"))

        with pytest.raises(UsageError, check=has_code("unknown_event_type")):
            EventRegistry().check(event)
