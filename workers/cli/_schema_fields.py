"""List the fields of an event type's content, from its JSON Schema, by dotted path."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from petiole.events.registry import EventType

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SchemaField:
    """A field: its dotted path, its type, and its default as JSON; empty if the field has none."""

    name: str
    type: str
    is_required: bool
    default: str
    description: str


def list_fields(event_type: EventType) -> list[SchemaField]:
    """List the content's fields; of a declared type, its parameters. A field with fields is followed by them."""
    if event_type.parameters is not None:
        schema = event_type.parameters.model_json_schema(by_alias=True)
        return list(_fields_of(schema, schema, "content.parameters", ()))
    schema = event_type.model.model_json_schema()
    return list(_fields_of(schema["properties"].get("content", {}), schema, "content", ()))


def _fields_of(schema: Schema, root: Schema, path: str, parents: tuple[str, ...]) -> Iterator[SchemaField]:
    target, names = _resolve(schema, root, parents)
    required = target.get("required", ())
    for name, field in target.get("properties", {}).items():
        resolved, _ = _resolve(field, root, ())
        yield SchemaField(
            f"{path}.{name}",
            _type_name(field, root),
            name in required,
            json.dumps(field["default"], ensure_ascii=False) if "default" in field else "",
            str(field.get("description") or resolved.get("description") or "").partition("\n")[0],
        )
        nested = field.get("items", field)
        if nested.get("$ref") not in names:  # a content may contain itself
            yield from _fields_of(nested, root, f"{path}.{name}" + ("[]" if "items" in field else ""), names)


def _resolve(schema: Schema, root: Schema, parents: tuple[str, ...]) -> tuple[Schema, tuple[str, ...]]:
    """Follow a reference; returns its target, and the references followed so far."""
    reference = schema.get("$ref")
    if reference is None:
        return schema, parents
    return root["$defs"][reference.rpartition("/")[2]], (*parents, reference)


def _type_name(schema: Schema, root: Schema) -> str:
    if "$ref" in schema:
        target, _ = _resolve(schema, root, ())
        return schema["$ref"].rpartition("/")[2] if "properties" in target else _type_name(target, root)
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " | ".join(dict.fromkeys(_type_name(each, root) for each in schema[union]))
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"])
    if schema.get("type") == "array" and "items" in schema:
        return f"[{_type_name(schema['items'], root)}]"
    name = str(schema.get("type", "any"))
    return f"{name} ({schema['format']})" if "format" in schema else name
