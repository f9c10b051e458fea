from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import ClassVar, Literal

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from petiole.events import (
    Category,
    Content,
    CustomEvent,
    Event,
    EventRegistry,
    MessageEvent,
    ParametersContent,
    TextContent,
    TextMessageEvent,
)
from petiole.events.content import Text
from petiole.events.errors import InvalidEvent, UsageError
from petiole.events.event import OpenEvent
from tests.support.errors import has_code


class Order(Content):
    order_id: Text


class OrderPlacedEvent(Event):
    """An order was placed."""

    event_type: Literal["order.placed"] = "order.placed"
    content: Order


class AnotherOrderPlacedEvent(Event):
    """An order was placed, as somebody else sees it."""

    event_type: Literal["order.placed"] = "order.placed"
    content: TextContent


class OwnTickEvent(Event):
    """A tick of one's own."""

    event_type: Literal["system.tick"] = "system.tick"
    content: TextContent


class SensorEvent(OpenEvent):
    """A sensor measured something."""

    category: ClassVar[Category] = Category.INPUT
    family: ClassVar[str] = "sensor"
    content: ParametersContent


class SecondVersionEvent(Event):
    """An event whose content got another field."""

    event_type: Literal["order.shipped"] = "order.shipped"
    schema_version: Literal[1, 2] = 2
    content: Order


class Reading(BaseModel):
    """Parameters of which one may be left out."""

    model_config = ConfigDict(strict=True, extra="forbid")

    celsius: float
    sensor: str = "unknown"


def a_document(**fields: object) -> dict[str, object]:
    """Write a text message as a service without this code would."""
    return {
        "event_type": "input.message.received",
        "stream_id": "conversation-1",
        "content": {"text": "Hello"},
    } | fields


def a_custom_document(parameters: object, topic: str = "custom.data_updated") -> dict[str, object]:
    return {"event_type": topic, "stream_id": "conversation-1", "content": {"parameters": parameters}}


def a_registry_that_knows_data_updated() -> EventRegistry:
    registry = EventRegistry()
    registry.declare("custom.data_updated", {"entity_id": str, "version": int}, description="A record changed.")
    return registry


def nested_json(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


class TestLookingUp:
    def test_a_type_is_found_by_its_topic_with_its_class_and_words(self) -> None:
        found = EventRegistry().get("input.message.received")

        assert found is not None
        assert (found.topic, found.model, found.schema_version) == (
            "input.message.received",
            TextMessageEvent,
            1,
        )
        assert found.description == "A text message arrived from a channel."
        assert found.is_builtin

    @pytest.mark.parametrize("topic", ["order.placed", "input", "input.message", "", "*", "input.*", "Input..x"])
    def test_a_topic_that_nobody_registered_is_not_found(self, topic: str) -> None:
        registry = EventRegistry()

        assert registry.get(topic) is None
        assert topic not in registry

    def test_a_registry_tells_whether_events_of_a_topic_can_be_published(self) -> None:
        registry = EventRegistry()

        assert "input.message.received" in registry
        assert "message.greeting" in registry
        assert "error.reported" in registry
        assert "order.placed" not in registry
        assert "custom.data_updated" not in registry

    @pytest.mark.parametrize("topic", ["message.*", "message.", "message.Not A Topic", "error.*", "message"])
    def test_what_is_no_topic_cannot_be_published_even_below_an_open_family(self, topic: str) -> None:
        assert topic not in EventRegistry()

    def test_all_types_are_listed_by_topic(self) -> None:
        registry = EventRegistry()
        registry.register(OrderPlacedEvent)

        topics = [event_type.topic for event_type in registry.all()]

        assert topics == sorted(topics)
        assert {"order.placed", "system.tick", "message.*"} <= set(topics)

    def test_ones_own_types_are_listed_apart(self) -> None:
        registry = a_registry_that_knows_data_updated()
        registry.register(OrderPlacedEvent)

        assert [event_type.topic for event_type in registry.custom()] == [
            "custom.data_updated",
            "order.placed",
        ]
        assert EventRegistry().custom() == []

    def test_two_registries_do_not_know_of_each_other(self) -> None:
        EventRegistry().register(OrderPlacedEvent)

        assert "order.placed" not in EventRegistry()


class TestRegistering:
    def test_a_registered_class_is_found_read_and_described(self) -> None:
        registry = EventRegistry()

        registry.register(OrderPlacedEvent)
        event = registry.parse({"event_type": "order.placed", "stream_id": "s", "content": {"order_id": "7"}})

        found = registry.get("order.placed")
        assert found is not None
        assert (found.model, found.description, found.is_builtin) == (
            OrderPlacedEvent,
            "An order was placed.",
            False,
        )
        assert isinstance(event, OrderPlacedEvent)
        assert event.content == Order(order_id="7")

    def test_registering_gives_the_class_back_so_that_it_works_as_a_decorator(self) -> None:
        assert EventRegistry().register(OrderPlacedEvent) is OrderPlacedEvent

    def test_registering_the_same_class_twice_changes_nothing(self) -> None:
        registry = EventRegistry()

        registry.register(OrderPlacedEvent)
        registry.register(OrderPlacedEvent)

        assert [event_type.model for event_type in registry.custom()] == [OrderPlacedEvent]

    def test_another_class_for_a_registered_topic_is_refused_and_the_first_one_stays(self) -> None:
        registry = EventRegistry()
        registry.register(OrderPlacedEvent)

        with pytest.raises(UsageError, check=has_code("already_registered")) as caught:
            registry.register(AnotherOrderPlacedEvent)

        assert "'order.placed'" in str(caught.value)
        assert [event_type.model for event_type in registry.custom()] == [OrderPlacedEvent]

    def test_a_topic_of_the_catalog_is_refused_by_an_error_of_its_own(self) -> None:
        with pytest.raises(UsageError, check=has_code("built_in_already_registered")) as caught:
            EventRegistry().register(OwnTickEvent)

        assert "'system.tick'" in str(caught.value)

    def test_a_class_of_the_catalog_may_be_registered_again(self) -> None:
        registry = EventRegistry()

        registry.register(TextMessageEvent)

        assert registry.custom() == []

    def test_a_class_that_binds_no_topic_is_refused(self) -> None:
        with pytest.raises(UsageError, match="Event has no topic; declare its event_type as a Literal"):
            EventRegistry().register(Event)

    def test_an_open_family_of_ones_own_takes_every_topic_below_its_word(self) -> None:
        registry = EventRegistry()

        registry.register(SensorEvent)
        event = registry.parse(a_custom_document({"celsius": 21.5}, topic="sensor.kitchen.temperature"))

        assert isinstance(event, SensorEvent)
        assert "sensor.kitchen" in registry
        assert "sensor" not in registry


class TestDeclaring:
    def test_a_declared_type_is_read_as_a_custom_event_with_its_parameters(self) -> None:
        registry = a_registry_that_knows_data_updated()

        event = registry.parse(a_custom_document({"entity_id": "e-1", "version": 2}))

        assert isinstance(event, CustomEvent)
        assert (event.name, event.content.parameters) == ("data_updated", {"entity_id": "e-1", "version": 2})

    @pytest.mark.parametrize(
        ("parameters", "code", "field"),
        [
            ({"entity_id": "e-1"}, "missing_field", "content.parameters.version"),
            ({"entity_id": "e-1", "version": 2, "colour": "red"}, "unknown_field", "content.parameters.colour"),
            ({"entity_id": "e-1", "version": "2"}, "wrong_type", "content.parameters.version"),
            ({"entity_id": "e-1", "version": True}, "wrong_type", "content.parameters.version"),
            ({"entity_id": "e-1", "version": 2.0}, "wrong_type", "content.parameters.version"),
            ({"entity_id": None, "version": 2}, "wrong_type", "content.parameters.entity_id"),
        ],
    )
    def test_a_missing_an_unknown_and_a_wrong_parameter_are_three_errors_that_name_it(
        self, parameters: object, code: str, field: str
    ) -> None:
        registry = a_registry_that_knows_data_updated()

        with pytest.raises(InvalidEvent) as caught:
            registry.parse(a_custom_document(parameters))

        assert caught.value.code == code
        assert (caught.value.topic, caught.value.field) == ("custom.data_updated", field)

    def test_a_declaration_says_what_the_type_is_about(self) -> None:
        declared = a_registry_that_knows_data_updated().get("custom.data_updated")

        assert declared is not None
        assert (declared.description, declared.is_builtin) == ("A record changed.", False)

    def test_declaring_the_same_twice_changes_nothing_in_whatever_order_the_names_stand(self) -> None:
        registry = EventRegistry()

        registry.declare("custom.data_updated", {"entity_id": str, "version": int})
        registry.declare("custom.data_updated", {"version": int, "entity_id": str})

        assert len(registry.custom()) == 1

    @pytest.mark.parametrize("parameters", [{"entity_id": str}, {"entity_id": str, "version": str}, {}])
    def test_declaring_a_type_again_with_other_parameters_is_refused(self, parameters: dict[str, type]) -> None:
        registry = a_registry_that_knows_data_updated()

        with pytest.raises(UsageError, check=has_code("already_registered")):
            registry.declare("custom.data_updated", parameters)

        with pytest.raises(InvalidEvent, check=has_code("missing_field")):
            registry.parse(a_custom_document({"entity_id": "e-1"}))

    def test_a_model_may_declare_parameters_of_which_some_are_optional(self) -> None:
        registry = EventRegistry()
        registry.declare("custom.measured", Reading)

        event = registry.parse(a_custom_document({"celsius": 21.5}, topic="custom.measured"))

        assert event.content == ParametersContent(parameters={"celsius": 21.5})
        with pytest.raises(InvalidEvent, check=has_code("wrong_type"), match=r"content\.parameters\.celsius"):
            registry.parse(a_custom_document({"celsius": "warm"}, topic="custom.measured"))

    def test_a_declared_duration_is_one_also_when_it_comes_from_json(self) -> None:
        registry = EventRegistry()
        registry.declare("custom.slept", {"duration": timedelta})

        event = registry.parse_json(json.dumps(a_custom_document({"duration": {"$duration": "PT5S"}}, "custom.slept")))

        assert event.content == ParametersContent(parameters={"duration": timedelta(seconds=5)})

    @pytest.mark.parametrize(
        "name",
        ["a.b", "two words", "🙂", "_private", "__config__", "schema", "model_config", "copy", "class"],
    )
    def test_a_declared_parameter_may_have_any_name(self, name: str) -> None:
        registry = EventRegistry()
        registry.declare("custom.named", {name: int})

        event = registry.parse(a_custom_document({name: 1}, topic="custom.named"))

        assert event.content == ParametersContent(parameters={name: 1})
        with pytest.raises(InvalidEvent, check=has_code("missing_field")) as caught:
            registry.parse(a_custom_document({}, topic="custom.named"))
        assert caught.value.field == f"content.parameters.{name}"

    @pytest.mark.parametrize("topic", ["order.placed", "message.greeting", "error.mine", "customs.x", "custom"])
    def test_a_topic_that_no_custom_event_can_have_cannot_be_declared(self, topic: str) -> None:
        registry = EventRegistry()

        with pytest.raises(UsageError, match=f"name it 'custom.{topic}'"):
            registry.declare(topic, {"order_id": str})

        assert registry.custom() == []

    @pytest.mark.parametrize("topic", ["custom.*", "custom.", "Custom.Order", ""])
    def test_what_is_no_topic_cannot_be_declared(self, topic: str) -> None:
        with pytest.raises(UsageError, check=has_code("invalid_topic")):
            EventRegistry().declare(topic, {"order_id": str})

    def test_an_undeclared_custom_type_is_refused(self) -> None:
        with pytest.raises(UsageError, check=has_code("unknown_event_type"), match="register its class, or declare it"):
            EventRegistry().parse(a_custom_document({"any": "thing"}, topic="custom.zzz"))

    def test_an_undeclared_custom_type_passes_where_that_is_allowed(self) -> None:
        registry = EventRegistry(allows_undeclared=True)

        event = registry.parse(a_custom_document({"any": "thing"}, topic="custom.zzz"))

        assert isinstance(event, CustomEvent)

    def test_a_declared_type_is_checked_also_where_undeclared_ones_are_allowed(self) -> None:
        registry = EventRegistry(allows_undeclared=True)
        registry.declare("custom.data_updated", {"entity_id": str})

        with pytest.raises(InvalidEvent, check=has_code("missing_field")):
            registry.parse(a_custom_document({}))

    def test_any_kind_of_message_passes_without_a_declaration(self) -> None:
        event = EventRegistry().parse(a_custom_document({"any": "thing"}, topic="message.greeting"))

        assert isinstance(event, MessageEvent)
        assert event.content_type == "greeting"


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

    def test_a_newer_version_is_refused_by_its_number_and_not_by_the_fields_it_adds(self) -> None:
        newer = a_document(schema_version=2, content={"text": "Hello", "added_in_version_2": True})

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

        registry.check_class(TextMessageEvent(stream_id="s", content=TextContent(text="Hello")))
        registry.check_class(MessageEvent(event_type="message.greeting", stream_id="s"))

    def test_an_event_of_another_class_than_its_topics_is_refused_by_both_names(self) -> None:
        posing = Event(event_type="input.message.received", stream_id="s", content=Content())

        with pytest.raises(
            InvalidEvent, check=has_code("wrong_type"), match="belongs to TextMessageEvent, not to Event"
        ) as caught:
            EventRegistry().check_class(posing)

        assert (caught.value.topic, caught.value.field) == ("input.message.received", "event_type")

    def test_an_event_of_a_class_that_nobody_registered_is_refused(self) -> None:
        event = OrderPlacedEvent(stream_id="s", content=Order(order_id="7"))

        with pytest.raises(UsageError, check=has_code("unknown_event_type")):
            EventRegistry().check_class(event)


class UnhurriedTopic(str):
    """A topic that dawdles wherever a table looks it up, so that threads surely meet there."""

    __slots__ = ()

    def __hash__(self) -> int:
        for _ in range(300):
            pass
        return super().__hash__()


@pytest.fixture
def threads_take_turns_at_every_step() -> Iterator[None]:
    usual_interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual_interval)


@pytest.mark.usefixtures("threads_take_turns_at_every_step")
def test_eight_threads_that_declare_and_read_at_once_lose_no_type_and_see_no_error() -> None:
    registry = EventRegistry()
    all_at_once = Barrier(8)

    def declare_and_read(thread: int) -> None:
        topics = [UnhurriedTopic(f"custom.thread_{thread}.type_{number}") for number in range(50)]
        all_at_once.wait(timeout=10)
        for topic in topics:
            registry.declare(topic, Reading)
            assert topic in registry
        for topic in topics[::10]:
            assert registry.parse(a_custom_document({"celsius": 21.5}, topic=topic)).event_type == topic
            assert {declared.topic for declared in registry.custom()} >= set(topics)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(declare_and_read, range(8)))

    assert len(registry.custom()) == 8 * 50


@pytest.mark.usefixtures("threads_take_turns_at_every_step")
def test_of_eight_threads_that_claim_one_topic_exactly_one_gets_it() -> None:
    registry = EventRegistry()
    all_at_once = Barrier(8)

    def claims(topic: str, model: type[BaseModel]) -> bool:
        all_at_once.wait(timeout=10)
        try:
            registry.declare(topic, model)
        except UsageError:
            return False
        return True

    def claim(thread: int) -> list[bool]:
        model = create_model(f"Claim{thread}")
        return [claims(UnhurriedTopic(f"custom.contested_{number}"), model) for number in range(50)]

    with ThreadPoolExecutor(8) as threads:
        outcomes_by_thread = list(threads.map(claim, range(8)))

    claimants_of_each_topic = [outcomes.count(True) for outcomes in zip(*outcomes_by_thread, strict=True)]
    assert claimants_of_each_topic == [1] * 50
