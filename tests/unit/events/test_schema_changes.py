"""Comparing schemas: which changes of an event type break, and whom."""

from __future__ import annotations

import itertools
import json
from typing import Annotated, Any, ClassVar, Literal

import jsonschema
import pytest
from pydantic import BaseModel, Field, create_model

from petiole.events import Content, Event, TextContent, TextMessageEvent
from petiole.events.errors import UsageError
from petiole.events.registry import EventRegistry
from petiole.events.schema_changes import SchemaChange, compare_schemas
from petiole.events.schemas import fingerprints_of_own_types, read_schemas, schema_fingerprint, schema_of, write_schemas


class Line(Content):
    sku: str
    parts: tuple[Line, ...] = ()


class Order(Content):
    number: int
    note: str = ""
    size: Literal["s", "m"] = "s"
    count: Annotated[int, Field(ge=1, le=10)] = 1
    lines: tuple[Line, ...] = ()


def a_registry(
    content: type[Content] = Order, version: int = 1, upcasts: bool = False, strict: bool = False
) -> EventRegistry:
    namespace: dict[str, Any] = {
        "__module__": __name__,
        "__annotations__": {"event_type": Literal["order.placed"], "schema_version": int, "content": content},
        "event_type": "order.placed",
        "schema_version": version,
        "is_strict": strict,
    }
    namespace["__annotations__"]["is_strict"] = ClassVar[bool]
    registry = EventRegistry()
    registry.register(type("OrderPlacedEvent", (Event,), namespace))
    for number in range(1, version) if upcasts else ():
        registry.upcaster("order.placed", from_version=number)(lambda content: content)
    return registry


def schemas(registry: EventRegistry) -> dict[str, Any]:
    return {event_type.topic: schema_of(event_type, registry) for event_type in registry.custom()}


def content(**fields: Any) -> type[Content]:
    """Make the content of an order with other fields; None leaves one out."""
    own: dict[str, Any] = {name: (field.annotation, field) for name, field in Order.model_fields.items()} | fields
    return create_model("Order", __base__=Content, **{name: field for name, field in own.items() if field})


def changes(new: EventRegistry, old: EventRegistry | None = None) -> list[tuple[str, str, str]]:
    found = compare_schemas(schemas(old or a_registry()), schemas(new))
    return [(change.field, change.kind, change.breaks) for change in found]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"currency": (str, "EUR")}, ("content.currency", "field_added", "")),
        ({"currency": (str, ...)}, ("content.currency", "field_added", "older events")),
        ({"note": None}, ("content.note", "field_removed", "older events")),
        ({"number": None}, ("content.number", "field_removed", "older events")),
        ({"note": (str, ...)}, ("content.note", "became_required", "older events")),
        ({"number": (int, 0)}, ("content.number", "became_optional", "")),
        ({"note": (str, "-")}, ("content.note", "default_changed", "")),
        ({"note": (str | None, "")}, ("content.note", "type_widened", "older processes")),
        ({"number": (float, ...)}, ("content.number", "type_widened", "older processes")),
        ({"size": (Literal["s", "m", "l"], "s")}, ("content.size", "type_widened", "older processes")),
        ({"size": (Literal["s"], "s")}, ("content.size", "type_narrowed", "older events")),
        ({"size": (str, "s")}, ("content.size", "type_widened", "older processes")),
        ({"count": (Annotated[int, Field(ge=2, le=10)], 1)}, ("content.count", "limit_tightened", "older events")),
        ({"count": (Annotated[int, Field(ge=1, le=20)], 1)}, ("content.count", "limit_loosened", "older processes")),
        ({"count": (Annotated[int, Field(ge=1)], 1)}, ("content.count", "limit_loosened", "older processes")),
        ({"note": (Annotated[str, Field(pattern="^a")], "")}, ("content.note", "limit_changed", "older events")),
        ({"lines": (tuple[TextContent, ...], ())}, ("content.lines[].sku", "field_removed", "older events")),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "-".join(value),
)
def test_each_kind_of_change_tells_whom_it_breaks(fields, expected):
    assert expected in changes(a_registry(content(**fields)))


def test_a_description_and_a_class_name_are_no_changes():
    renamed = create_model("Renamed", __base__=Order, __doc__="Another text.")

    assert changes(a_registry(renamed)) == []


def test_a_type_that_changes_in_two_directions_breaks_in_both():
    found = changes(a_registry(content(number=(str, ...))))

    assert found == [
        ("content.number", "type_narrowed", "older events"),
        ("content.number", "type_widened", "older processes"),
    ]


def test_an_added_field_breaks_older_processes_of_a_strict_type():
    found = changes(a_registry(content(currency=(str, "EUR")), strict=True), a_registry(strict=True))

    assert found == [("content.currency", "field_added", "older processes")]


@pytest.mark.parametrize(("upcasts", "breaks"), [(True, ""), (False, "older events")])
def test_a_raised_version_with_an_upcaster_makes_a_change_safe(upcasts, breaks):
    found = changes(a_registry(content(currency=(str, ...)), version=2, upcasts=upcasts))

    assert found == [("schema_version", "version_raised", ""), ("content.currency", "field_added", breaks)]


def test_types_that_were_added_are_compatible_and_types_that_are_gone_break_publishers():
    found = compare_schemas(schemas(a_registry()), {})
    back = compare_schemas({}, schemas(a_registry()))

    assert [(change.kind, change.breaks) for change in (*found, *back)] == [
        ("type_removed", "publishers"),
        ("type_added", ""),
    ]
    assert "keep the class" in found[0].remedy


def test_an_export_is_read_back_without_a_difference_and_forgets_types_that_are_gone(tmp_path):
    registry = a_registry()
    (tmp_path / "mine.json").write_text("{}")
    (tmp_path / "gone.json").write_text(json.dumps({"x-petiole-topic": "gone.away"}))

    write_schemas(registry, registry.all(), tmp_path)

    everything = {event_type.topic: schema_of(event_type, registry) for event_type in registry.all()}
    assert compare_schemas(everything, read_schemas(tmp_path)) == []
    assert "order.placed" in everything
    assert (tmp_path / "mine.json").exists()
    assert not (tmp_path / "gone.json").exists()


def test_a_folder_without_schemas_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(UsageError, match="petiole schemas export"):
        read_schemas(tmp_path)


def test_a_file_that_is_not_json_is_named(tmp_path):
    (tmp_path / "broken.json").write_text("{")

    with pytest.raises(UsageError, match=r"broken\.json is not JSON"):
        read_schemas(tmp_path)


def test_a_schema_accepts_what_the_class_accepts(a_message):
    registry = EventRegistry()
    schema = schema_of(registry.get("input.message.received"), registry)  # type: ignore[arg-type]  # in the catalog

    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(a_message().model_dump(mode="json"), schema)


def test_the_schema_of_a_declared_type_has_its_parameters():
    registry = EventRegistry()
    declared = registry.declare("custom.data_updated", {"entity_id": str})
    schema = schema_of(declared, registry)
    event = {"stream_id": "s", "event_type": "custom.data_updated", "content": {"parameters": {"entity_id": "7"}}}

    jsonschema.validate(event, schema)
    with pytest.raises(jsonschema.ValidationError, match="7 is not of type 'string'"):
        jsonschema.validate(event | {"content": {"parameters": {"entity_id": 7}}}, schema)


def test_every_type_of_the_catalog_has_a_valid_schema():
    registry = EventRegistry()

    for event_type in registry.all():
        jsonschema.Draft202012Validator.check_schema(schema_of(event_type, registry))


def test_fingerprints_are_equal_only_if_the_types_accept_the_same():
    renamed = create_model("Renamed", __base__=Order, __doc__="Another text.")
    registries = [a_registry(), a_registry(renamed), a_registry(version=2), a_registry(content(note=None))]

    one, same, *others = (fingerprints_of_own_types(registry)["order.placed"] for registry in registries)

    assert one == same
    assert one not in others
    assert one.startswith("1:")


def test_a_field_called_title_is_part_of_the_fingerprint():
    class Titled(BaseModel):
        title: str

    class Described(BaseModel):
        description: str

    registry = EventRegistry()

    assert schema_fingerprint(registry.declare("custom.one", Titled)) != schema_fingerprint(
        registry.declare("custom.two", Described)
    )


def test_fields_in_another_order_are_the_same_schema():
    class Sender(Content):
        name: str

    class Parcel(Content):
        weight: int

    fields: dict[str, Any] = {"sender": (Sender, ...), "parcel": (Parcel, ...), "size": (Literal["s", "m"], ...)}
    reordered = {"size": (Literal["m", "s"], ...), "parcel": fields["parcel"], "sender": fields["sender"]}
    swapped = {**fields, "sender": (Parcel, ...), "parcel": (Sender, ...)}

    one, same, other = (
        fingerprints_of_own_types(a_registry(create_model("Order", __base__=Content, **each)))["order.placed"]
        for each in (fields, reordered, swapped)
    )

    assert one == same != other


def test_every_breaking_change_says_what_to_do():
    kinds = ("older events", "older processes", "publishers")

    remedies = [SchemaChange("t.t", "f", "k", "d", breaks).remedy for breaks in kinds]  # type: ignore[arg-type]  # literals

    assert all(remedies)
    assert all(one != other for one, other in itertools.combinations(remedies, 2))


def test_the_text_message_is_of_the_catalog_and_has_no_own_fingerprint():
    assert fingerprints_of_own_types(EventRegistry()) == {}
    assert TextMessageEvent.model_fields["event_type"].default == "input.message.received"
