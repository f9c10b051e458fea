"""Versions of an event type: newer ones are read with their unknown fields, older ones are upcast."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import pytest

from petiole.events import Content, Event, EventRegistry
from petiole.events.errors import InvalidEvent, UsageError
from petiole.tasks.publishing.document import read_event, validate_event
from tests.support.errors import has_code


class Line(Content):
    """A line of an order."""

    sku: str


class Order(Content):
    """An order of version 3."""

    order_id: str
    currency: str
    lines: tuple[Line, ...] = ()


class OrderPlacedEvent(Event):
    """An order was placed."""

    event_type: Literal["order.placed"] = "order.placed"
    schema_version: Literal[3] = 3
    content: Order


class StrictEvent(Event):
    """An event whose unknown fields matter."""

    is_strict: ClassVar[bool] = True
    event_type: Literal["order.paid"] = "order.paid"
    content: Order


def a_registry() -> EventRegistry:
    registry = EventRegistry()
    registry.register(OrderPlacedEvent)
    registry.register(StrictEvent)
    return registry


def a_document(*, schema_version: int = 3, event_type: str = "order.placed", **content: Any) -> dict[str, Any]:
    order = {"order_id": "7", "currency": "EUR", "lines": [{"sku": "a"}]} | content
    return {"event_type": event_type, "stream_id": "s", "schema_version": schema_version, "content": order}


class TestNewer:
    @pytest.mark.parametrize("schema_version", [3, 4])
    def test_what_a_publisher_has_validated_may_have_fields_that_are_unknown_here(self, schema_version: int) -> None:
        document = a_document(schema_version=schema_version, colour="red", lines=[{"sku": "a", "weight": 2}])
        document |= {"shape": 3, "context": {"zone": [1]}}

        event = a_registry().read(document)

        assert isinstance(event, OrderPlacedEvent)
        assert (event.schema_version, event.content.order_id) == (schema_version, "7")
        written: Any = event.model_dump(mode="json")
        assert written["shape"] == 3
        assert written["context"]["zone"] == [1]
        assert written["content"] == document["content"]

    def test_unknown_fields_are_published_again_with_the_event_and_with_its_content(self) -> None:
        registry = a_registry()
        event = registry.read(a_document(schema_version=4, lines=[{"sku": "a", "weight": 2}]))

        again = validate_event(event, registry, 100_000)
        changed = validate_event(event.model_copy(update={"stream_id": "t"}), registry, 100_000)
        passed_on = validate_event(event.caused(OrderPlacedEvent, content=event.content), registry, 100_000)
        as_a_document = validate_event(event.model_dump(mode="json"), registry, 100_000)

        for validated in (again, changed, passed_on, as_a_document):
            content: Any = validated.document["content"]
            assert content["lines"] == [{"sku": "a", "weight": 2}]
            assert read_event(validated.document, registry).content == event.content
        assert (changed.event.stream_id, changed.event.schema_version) == ("t", 4)

    def test_a_caller_is_told_of_an_unknown_field(self) -> None:
        with pytest.raises(InvalidEvent, check=has_code("unknown_field"), match="colour"):
            a_registry().parse(a_document(colour="red"))

    @pytest.mark.parametrize(
        "document",
        [
            pytest.param(a_document(schema_version=4, currency=None), id="its fields do not fit"),
            pytest.param(a_document(schema_version=4, event_type="order.paid", colour="red"), id="its class is strict"),
        ],
    )
    def test_a_newer_version_that_cannot_be_read_here_is_told_by_its_version(self, document: dict[str, Any]) -> None:
        with pytest.raises(InvalidEvent, check=has_code("newer_version"), match=r"is 4, .* up to [13]"):
            a_registry().read(document)

    def test_a_version_that_no_publisher_here_writes_is_refused(self) -> None:
        event = OrderPlacedEvent(stream_id="s", content=Order(order_id="7", currency="EUR"))

        with pytest.raises(InvalidEvent, check=has_code("newer_version")):
            a_registry().check(event.copy_with_valid({"schema_version": 4}))

    def test_recorded_events_that_cannot_be_read_here_are_left_out(self) -> None:
        documents = [a_document(), a_document(schema_version=4, currency=1), a_document(event_type="order.gone")]

        assert [event.event_type for event in a_registry().read_known(documents)] == ["order.placed"]

    def test_declared_parameters_may_have_unknown_ones_where_they_are_read(self) -> None:
        registry = EventRegistry()
        registry.declare("custom.counted", {"count": int})
        parameters = {"count": 1, "colour": "red"}
        document = {"event_type": "custom.counted", "stream_id": "s", "content": {"parameters": parameters}}

        assert registry.read(document).content.model_dump() == {"parameters": parameters}
        with pytest.raises(InvalidEvent, check=has_code("unknown_field")):
            registry.parse(document)


class TestOlder:
    def test_an_older_version_is_converted_step_by_step(self) -> None:
        registry = a_registry()

        @registry.upcaster("order.placed", from_version=1)
        def name_it(content: dict[str, Any]) -> dict[str, Any]:
            return {"order_id": content["id"]}

        @registry.upcaster("order.placed", from_version=2)
        def add_currency(content: dict[str, Any]) -> dict[str, Any]:
            return {**content, "currency": "EUR"}

        older = {"event_type": "order.placed", "stream_id": "s", "content": {"id": "7"}}
        for event in (registry.read(older), registry.parse(older | {"schema_version": 1})):
            assert (event.schema_version, event.content) == (3, Order(order_id="7", currency="EUR"))
        assert registry.check_upcasters() == []

    def test_an_upcaster_that_fails_is_told_with_its_versions(self) -> None:
        registry = a_registry()
        registry.upcaster("order.placed", from_version=2)(lambda content: {"order_id": content["missing"]})

        with pytest.raises(InvalidEvent, match="from version 2 to 3: KeyError; fix the upcaster"):
            registry.read(a_document(schema_version=2))

    @pytest.mark.parametrize(
        ("topic", "versions", "problem"),
        [
            ("order.placed", [1], "order.placed: no upcaster from version 2 to 3; add one"),
            ("order.placed", [2, 3], "its class has version 3; set schema_version of the class to 4"),
            ("order.gone", [1], "order.gone: it has an upcaster, but no class"),
        ],
    )
    def test_a_chain_with_a_gap_or_without_an_end_is_told(self, topic: str, versions: list[int], problem: str) -> None:
        registry = a_registry()
        for version in versions:
            registry.upcaster(topic, from_version=version)(dict)

        (told,) = registry.check_upcasters()

        assert problem in told

    def test_a_version_has_one_upcaster(self) -> None:
        registry = a_registry()
        registry.upcaster("order.placed", from_version=1)(dict)

        with pytest.raises(UsageError, match="two upcasters"):
            registry.upcaster("order.placed", from_version=1)(lambda content: content)
