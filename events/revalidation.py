"""Revalidation: tell whether an event that is to be published has to be read back from its JSON.

It has to, unless three things are certain:

    the instance    pydantic validated it and its parts; free-form values, which can be changed, are checked again
    the class       its JSON can be read: every field has one of the types and functions that are known here
    the defaults    they are valid; pydantic does not validate them

Anything else makes the answer yes, which is never wrong, only slower.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeAlias

from pydantic import ValidationError
from pydantic_core import SchemaValidator

from petiole.events.content import UNVALIDATED, FrozenModel, read_parameters
from petiole.events.event import Event

CACHED_CLASSES = 1_000
"""Event classes whose schema is kept as inspected."""

_Schema: TypeAlias = Mapping[str, Any]
_Parts: TypeAlias = dict[type, tuple[str, ...]]
"""The fields with parts or free-form values, by the class of the event or of the part."""

_SCALARS = frozenset({"str", "int", "float", "bool", "none", "literal", "enum", "datetime", "bytes"})
_WRAPPERS = frozenset({"nullable", "default", "function-after", "function-before"})
_CONFIG = frozenset({"title", "extra_fields_behavior", "allow_inf_nan"})
_KNOWN_MODULES = (f"{__name__.rpartition('.')[0]}.", "pydantic._internal._validators")
"""Of our validators and serializers, and of the functions that pydantic uses for some constraints."""


def must_be_read_back(event: Event) -> bool:
    """Return whether the event may be invalid, or its JSON may be unreadable."""
    parts = _find_parts(type(event))
    return not (parts and _is_valid(event, parts))


def _is_valid(value: object, parts: _Parts) -> bool:
    fields = parts.get(type(value))
    if fields is not None:
        attributes = value.__dict__
        if UNVALIDATED in attributes:
            return False
        for field in fields:  # noqa: SIM110 - a generator takes twice the time
            if not _is_valid(attributes[field], parts):
                return False
        return True
    if isinstance(value, dict):
        return not value or _is_readable_map(value)
    if isinstance(value, tuple):
        return all(_is_valid(item, parts) for item in value)
    return not isinstance(value, FrozenModel)


def _is_readable_map(value: dict[str, object]) -> bool:
    try:
        return read_parameters(value) == value
    except ValueError:
        return False


class _UnknownSchemaError(Exception):
    """The JSON of a class may be unreadable."""


@lru_cache(CACHED_CLASSES)
def _find_parts(model: type[Event]) -> _Parts:
    """Return the parts of a class whose JSON can be read; nothing for other classes."""
    parts: _Parts = {}
    try:
        _has_parts(model.__pydantic_core_schema__, parts)
    except _UnknownSchemaError:
        return {}
    return parts


def _has_parts(schema: _Schema, parts: _Parts) -> bool:
    """Return whether values of the schema have parts or are free-form. Raises _UnknownSchemaError."""
    kind = schema["type"]
    _check_functions(schema)
    if kind == "model":
        _add_model(schema, parts)
        return True
    if kind == "function-plain":
        _require(schema["function"]["function"] is read_parameters)
        return True
    if kind == "default":
        _check_default(schema)
    if kind in _WRAPPERS:
        return _has_parts(schema["schema"], parts)
    _require(not schema.get("allow_inf_nan"))
    # In strict mode, other types are not read from a JSON value.
    _require(not schema.get("strict") or kind in {"str", "int", "float", "bool"})
    if kind == "tuple":
        # A list, because every item has to be looked at.
        return any([_has_parts(item, parts) for item in schema["items_schema"]])  # noqa: C419
    _require(kind in _SCALARS and schema.get("sub_type", "str") in {"str", "int"})
    _require(all(type(value) in {str, int, bool} for value in schema.get("expected", ())))
    return False


def _add_model(schema: _Schema, parts: _Parts) -> None:
    model, config, fields = schema["cls"], schema.get("config", {}), schema["schema"]
    _require(issubclass(model, FrozenModel) and bool(model.model_config["frozen"]))
    _require(config.keys() <= _CONFIG and config.get("extra_fields_behavior") == "forbid")
    _require(config.get("allow_inf_nan") is False)
    _require(not (schema.get("custom_init") or schema.get("post_init") or schema.get("root_model")))
    _require(model.model_dump_json is FrozenModel.model_dump_json)
    _require(fields["type"] == "model-fields" and not fields.get("computed_fields"))
    for field in fields["fields"].values():
        _require(field.keys() <= {"type", "schema", "metadata", "serialization_exclude_if"})
        # What our own functions leave out is the default.
        _require(str(getattr(field.get("serialization_exclude_if"), "__module__", __name__)).startswith(_KNOWN_MODULES))
    parts[model] = tuple([name for name, field in fields["fields"].items() if _has_parts(field["schema"], parts)])


def _check_functions(schema: _Schema) -> None:
    """Require that only functions of ours and of pydantic's constraints validate and write the value."""
    for part in (schema, schema.get("serialization", {})):
        function = part.get("function")
        function = function["function"] if isinstance(function, Mapping) else function
        if function is not None:
            _require(str(getattr(function, "func", function).__module__).startswith(_KNOWN_MODULES))
    # Other ways to write a value, such as `to-string`, may not be read back.
    _require(schema.get("serialization", {}).get("type", "function-plain") == "function-plain")


def _check_default(schema: _Schema) -> None:
    if "default" not in schema:
        factory = schema["default_factory"]
        is_model = isinstance(factory, type) and issubclass(factory, FrozenModel)
        _require(factory is dict or is_model or str(factory.__module__).startswith(_KNOWN_MODULES))
        return
    try:
        SchemaValidator(schema["schema"]).validate_python(schema["default"])
    except ValidationError as error:
        raise _UnknownSchemaError from error


def _require(is_known: bool) -> None:  # noqa: FBT001 - an assertion
    if not is_known:
        raise _UnknownSchemaError
