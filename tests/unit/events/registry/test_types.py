"""Event types that are registered and declared."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import ClassVar, Literal

import pytest
from pydantic import BaseModel, ConfigDict, create_model

from petiole.events import (
    Category,
    CustomEvent,
    Event,
    EventRegistry,
    MessageEvent,
    ParametersContent,
    TextContent,
    TextMessageEvent,
)
from petiole.events.errors import InvalidEvent, UsageError
from petiole.events.event import OpenEvent
from tests.support.errors import has_code
from tests.unit.events.registry.orders import (
    Order,
    OrderPlacedEvent,
    a_custom_document,
    a_registry_that_knows_data_updated,
)


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


class Reading(BaseModel):
    """Parameters of which one may be left out."""

    model_config = ConfigDict(strict=True, extra="forbid")

    celsius: float
    sensor: str = "unknown"


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
