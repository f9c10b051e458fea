"""The base class of event contents, their scalar types, free-form parameters and media contents.

Scalars are strict: True is not 1, "5" is not 5. Free-form parameters hold the JSON types and durations, and keep each
value's type when an event is serialized and parsed.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar, dataclass_transform

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    StrictBool,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import SchemaSerializer
from typing_extensions import TypeAliasType

from petiole.events.texts import is_blank

MAX_DEPTH = 32
"""The most levels of nesting in free-form values. Deeper values are rejected when the event is created."""

_INT64 = 2**63

Integer = Annotated[int, Field(strict=True, ge=-_INT64, lt=_INT64)]
Count = Annotated[int, Field(strict=True, ge=0, lt=_INT64)]
Positive = Annotated[int, Field(strict=True, gt=0, lt=_INT64)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Ratio = Annotated[float, Field(strict=True, ge=0, le=1)]
Flag = StrictBool
Text = Annotated[str, Field(strict=True, min_length=1)]


def _check_is_duration(value: object, info: ValidationInfo) -> object:
    # Pydantic takes True as one second, and text in several notations; in JSON a duration is text.
    is_duration = isinstance(value, int | float | timedelta) and not isinstance(value, bool)
    if info.mode == "python" and not is_duration:
        raise ValueError("input should be a valid timedelta, or seconds as a number")
    return value


Duration = Annotated[timedelta, Field(strict=False), BeforeValidator(_check_is_duration)]
"""A duration: seconds, or a timedelta."""

# A named alias, because pydantic resolves a recursive type only by its name.
Value = TypeAliasType("Value", "bool | int | float | str | timedelta | list[Value] | dict[str, Value] | None")

_DURATION_TAG = "$duration"
_duration: TypeAdapter[timedelta] = TypeAdapter(timedelta)


if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field, PrivateAttr))
class FrozenMeta(ModelMetaclass):
    """Pydantic's metaclass, which declares to type checkers that events and their parts are frozen.

    A subclass may therefore narrow the type of a field.
    """


class FrozenModel(BaseModel, metaclass=FrozenMeta):
    """Base class of events and their parts: frozen, and unknown fields are rejected.

    An event of a newer schema is read with `extra="allow"`: pydantic keeps the unknown fields in `model_extra`, and
    they are written again. Pydantic's methods that make an instance without validation mark it, so that a publisher
    validates it again.
    """

    # A schema is built on first use, because a process knows many types and parses only a few.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    @classmethod
    def __pydantic_on_complete__(cls) -> None:
        """Have the class write the unknown fields of its instances; pydantic would leave them out."""
        schema = _with_unknown_fields(cls.__pydantic_core_schema__)
        # Pydantic would return the present serializer of a complete class.
        cls.__pydantic_complete__ = False
        cls.__pydantic_serializer__ = SchemaSerializer(schema)
        cls.__pydantic_complete__ = True

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy this instance, as pydantic does. If the copy has changes, it is validated when it is published."""
        copied = super().model_copy(update=update, deep=deep)
        return _mark(copied) if update else copied

    def copy_with_valid(self, fields: Mapping[str, object]) -> Self:
        """Copy this instance with values of valid instances, or derived from such. They are not validated again."""
        return super().model_copy(update=fields)

    # Type checkers know the arguments of pydantic's own methods.
    if not TYPE_CHECKING:

        @classmethod
        def model_construct(cls, _fields_set: set[str] | None = None, **values: Any) -> Self:
            """Make an instance without validation, as pydantic does. It is validated when it is published."""
            return _mark(super().model_construct(_fields_set, **values))

        def copy(self, **options: Any) -> Self:
            """Copy this instance, as pydantic's deprecated method does. It is validated when it is published."""
            return _mark(super().copy(**options))


UNVALIDATED = "_is_unvalidated"
"""A key of the `__dict__` of instances that were made without validation, and of their copies.

It is no field: pydantic's output and comparisons ignore it.
"""

FrozenModelT = TypeVar("FrozenModelT", bound=FrozenModel)


def _with_unknown_fields(schema: Any) -> Any:
    """Copy a core schema in which every model allows unknown fields."""
    match schema:
        case dict():
            copied = {name: _with_unknown_fields(part) for name, part in schema.items()}
            return copied | {"extra_fields_behavior": "allow"} if "extra_fields_behavior" in copied else copied
        case list() | tuple():
            return type(schema)(map(_with_unknown_fields, schema))
    return schema


def _mark(model: FrozenModelT) -> FrozenModelT:
    model.__dict__[UNVALIDATED] = True
    return model


class Content(FrozenModel):
    """Base class of event contents."""


def read_value(value: object, depth: int = 1) -> Value:
    """Convert a value from Python or from JSON. Durations in JSON are {"$duration": "PT5S"}.

    Raises:
        ValueError: NaN or infinity, an integer beyond 64 bits, half a surrogate pair, more than 32 levels of nesting,
            or another type.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"is nested more than {MAX_DEPTH} levels deep; flatten it")
    match value:
        case None | bool() | timedelta():
            return value
        case str():
            return _read_text(value)
        case int():
            return _read_integer(value)
        case float():
            return _read_float(value)
        case list() | tuple():
            return [read_value(item, depth + 1) for item in value]
        case dict():
            return _read_duration(value) if _DURATION_TAG in value else _read_map(value, depth)
    raise ValueError(
        f"contains a {type(value).__name__}; use text, numbers, true/false, null, durations, lists and maps"
    )


def _read_text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("contains text with half of a surrogate pair, which UTF-8 cannot encode; remove it") from None
    return value


def _read_integer(value: int) -> int:
    if not -_INT64 <= value < _INT64:
        raise ValueError(f"contains {value}, which does not fit in 64 bits; send it as text")
    return value


def _read_float(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"contains {value}, which JSON cannot represent; send null or text")
    return value


def _read_duration(value: Mapping[object, object]) -> timedelta:
    text = value[_DURATION_TAG]
    if len(value) > 1 or not isinstance(text, str):
        raise ValueError(
            f"has {_DURATION_TAG!r}, which is reserved for durations; use it as the only key, with text such as 'PT5S'"
        )
    try:
        return _duration.validate_python(text)
    except ValidationError:
        raise ValueError(
            f"contains {text[:60]!r}, which is not an ISO 8601 duration; write one such as 'PT5S'"
        ) from None


def _read_map(value: Mapping[object, object], depth: int) -> dict[str, Value]:
    for key in value:
        if not isinstance(key, str):
            raise ValueError(f"has the key {key!r}; keys must be text")  # noqa: TRY004 - pydantic turns only ValueError into a field's error
    return {_read_text(str(key)): read_value(item, depth + 1) for key, item in value.items()}


def read_parameters(value: object) -> dict[str, Value]:
    """Convert a map of free-form values. Raises ValueError as `read_value`."""
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a map, not a {type(value).__name__}")  # noqa: TRY004 - as above
    return _read_map(value, depth=1)


def _write_value(value: Value) -> object:
    match value:
        case timedelta():
            return {_DURATION_TAG: _duration.dump_python(value, mode="json")}
        case list():
            return [_write_value(item) for item in value]
        case dict():
            return {key: _write_value(item) for key, item in value.items()}
    return value


Parameters = Annotated[
    dict[str, Value],
    PlainValidator(read_parameters),
    PlainSerializer(_write_value, return_type=dict[str, object], when_used="json"),
    WithJsonSchema({"type": "object", "additionalProperties": True}),
]
"""Free-form named values, at most 32 levels deep."""


def _read_bytes(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        raise ValueError("is text that is not base64; encode the bytes as base64") from None


def _write_bytes(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


EncodedBytes = Annotated[
    bytes,
    BeforeValidator(_read_bytes),
    PlainSerializer(_write_bytes, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
    Field(min_length=1),
]
"""Bytes; base64 in JSON."""


class ParametersContent(Content):
    """Free-form named values."""

    parameters: Parameters = Field(default_factory=dict)


class ChunkRange(FrozenModel):
    """The first and the last audio chunk of an utterance, by sequence number."""

    first: Count
    last: Count


class TextContent(Content):
    """Text as its author wrote it or, with `chunks`, as it was recognized in the stream's audio.

    It has something to read: spaces and invisible characters alone are refused.
    """

    text: Text
    language: str | None = Field(default=None, description="BCP 47 tag, where known")
    chunks: ChunkRange | None = Field(default=None, exclude_if=lambda value: value is None)

    @field_validator("text")
    @classmethod
    def _check_visible(cls, text: str) -> str:
        if is_blank(text):
            raise ValueError("is blank; write something, or send nothing")
        return text


class AudioContent(Content):
    """A chunk of audio: `data` holds `duration_ms` milliseconds in `format` at `sample_rate` Hz."""

    data: EncodedBytes
    format: Text = "pcm_s16le"
    duration_ms: Positive
    sample_rate: Positive = 16_000
    channels: Positive = 1
    sequence: Count = Field(default=0, description="position in its stream, from 0")
    is_last: Flag = False


class VideoContent(Content):
    """A frame of video, `width` by `height` pixels, in `format`."""

    data: EncodedBytes
    format: Text = "jpeg"
    width: Positive
    height: Positive
    fps: Annotated[float, Field(strict=True, gt=0)] | None = None
    duration_ms: Positive | None = None
    sequence: Count = Field(default=0, description="position in its stream, from 0")
