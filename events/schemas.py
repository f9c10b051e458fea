"""JSON Schemas of event types, for other languages and for comparison, and their fingerprints.

    write_schemas(registry.all(), Path("schemas"))     one file per type: `petiole schemas export`
    read_schemas(Path("schemas"))                      the same schemas again
    schema_fingerprint(event_type)                            equal in two processes if they read and write a type alike

A schema describes a whole event, as JSON Schema 2020-12. Keywords that begin with `x-petiole-` have what JSON Schema
cannot say. Titles and descriptions are left out of fingerprints, because they change no event.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel

from petiole.events.errors import UsageError
from petiole.events.registry import EventRegistry, EventType

Schema: TypeAlias = Mapping[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TOPIC, VERSION = "x-petiole-topic", "x-petiole-version"
IS_STRICT, OLDEST_VERSION = "x-petiole-strict", "x-petiole-oldest-version"

_TEXTS = {"title", "description"}
NAMED = {"properties", "patternProperties"}
"""Keywords whose members are names that somebody chose, and not keywords."""
_SETS = {"required", "enum"}
"""Keywords with a list whose order means nothing."""


def schema_of(event_type: EventType, registry: EventRegistry) -> dict[str, Any]:
    """Build the JSON Schema of a type's events. A declared type has its own parameters."""
    schema = event_type.model.model_json_schema()
    if event_type.parameters is not None:
        schema = _with_parameters(schema, event_type.topic, event_type.parameters)
    return {
        "$schema": DIALECT,
        TOPIC: event_type.topic,
        VERSION: event_type.schema_version,
        IS_STRICT: event_type.model.is_strict,
        OLDEST_VERSION: registry.oldest_version(event_type.topic),
        **schema,
        "description": event_type.description,
    }


def _with_parameters(schema: dict[str, Any], topic: str, model: type[BaseModel]) -> dict[str, Any]:
    name = f"Parameters_of_{topic}"
    parameters = model.model_json_schema(by_alias=True, ref_template=f"#/$defs/{name}/$defs/{{model}}")
    content_name = schema["properties"]["content"]["$ref"].rpartition("/")[2]
    content = schema["$defs"][content_name]
    own = {**content, "properties": {**content["properties"], "parameters": {"$ref": f"#/$defs/{name}"}}}
    return {
        **schema,
        "$defs": {**schema["$defs"], content_name: own, name: parameters},
        "properties": {**schema["properties"], "event_type": {"const": topic, "type": "string"}},
    }


def schema_fingerprint(event_type: EventType) -> str:
    """Return `version:hash` of a type's schema: equal if two processes accept the same events of this type."""
    if event_type.parameters is not None:
        schema = event_type.parameters.model_json_schema(by_alias=True)
    else:
        schema = event_type.model.model_json_schema()
    text = json.dumps([_canonical(schema), event_type.model.is_strict], sort_keys=True, separators=(",", ":"))
    return f"{event_type.schema_version}:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def fingerprints_of_own_types(registry: EventRegistry) -> dict[str, str]:
    """Return the fingerprint of each type that is not in the catalog, whose types belong to the version of Petiole."""
    return {event_type.topic: schema_fingerprint(event_type) for event_type in registry.custom()}


def _canonical(schema: Schema) -> list[Any]:
    """Return a schema without texts and without the names of classes and the order of fields.

    Its definitions are numbered as they are met, in the order of the names.
    """
    definitions = schema.get("$defs", {})
    names: list[str] = []
    parts = [_canonical_part({key: value for key, value in schema.items() if key != "$defs"}, names)]
    while len(parts) <= len(names):
        parts.append(_canonical_part(definitions[names[len(parts) - 1]], names))
    return parts


def _canonical_part(schema: Any, names: list[str]) -> Any:
    match schema:
        case {"$ref": str(reference)}:
            name = reference.rpartition("/")[2]
            if name not in names:
                names.append(name)
            return {"$ref": names.index(name)}
        case dict():
            return {
                key: {name: _canonical_part(member, names) for name, member in sorted(value.items())}
                if key in NAMED and isinstance(value, dict)
                else sorted(value, key=json.dumps)
                if key in _SETS and isinstance(value, list)
                else _canonical_part(value, names)
                for key, value in sorted(schema.items())
                if key not in _TEXTS
            }
        case list():
            return [_canonical_part(member, names) for member in schema]
    return schema


def write_schemas(registry: EventRegistry, types: Iterable[EventType], folder: Path) -> list[str]:
    """Write a file per type, and delete those of types that are gone; returns the names of all written files.

    Other files of the folder stay. Repeating it changes nothing, so that the folder can be kept under version control.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        _file_name(event_type.topic): json.dumps(schema_of(event_type, registry), indent=2, ensure_ascii=False) + "\n"
        for event_type in types
    }
    for path in folder.glob("*.json"):
        if path.name not in texts and TOPIC in _read_object(path):
            path.unlink()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return sorted(texts)


def read_schemas(folder: Path) -> dict[str, Schema]:
    """Read the schemas of a folder that `write_schemas` wrote, by topic. Raises UsageError if it has none."""
    found = {
        str(schema[TOPIC]): schema for path in sorted(folder.glob("*.json")) if TOPIC in (schema := _read_object(path))
    }
    if not found:
        raise UsageError(f"{folder} has no schemas of event types; write them: petiole schemas export {folder}")
    return found


def _file_name(topic: str) -> str:
    # A topic has at least two words, so the word of an open family is no other type's file.
    return f"{topic.removesuffix('.*')}.json"


def _read_object(path: Path) -> Schema:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{path} is not JSON: {error}; write it again: petiole schemas export {path.parent}"
        ) from error
    return document if isinstance(document, dict) else {}
