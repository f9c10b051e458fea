"""Which events are read back from their JSON before they are published."""

from __future__ import annotations

import copy
import pickle
import warnings
from datetime import datetime
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, computed_field, model_validator

from petiole.events import (
    Content,
    CustomEvent,
    EventContext,
    EventRegistry,
    MessageEvent,
    TextContent,
    TextMessageEvent,
)
from petiole.events.content import Integer, Number, Parameters, Positive
from petiole.events.errors import InvalidEvent
from petiole.events.event import Event
from petiole.events.revalidation import must_be_read_back
from tests.support.errors import has_code


def a_message(**fields: Any) -> TextMessageEvent:
    return TextMessageEvent.model_validate({"stream_id": "s", "content": TextContent(text="hi")} | fields)


def a_general_message(**parameters: Any) -> MessageEvent:
    return MessageEvent.model_validate(
        {"event_type": "message.note", "stream_id": "s", "content": {"parameters": parameters}}
    )


def an_event_with(content: type[BaseModel], **fields: Any) -> Event:
    """Build an event of a new class with this class of content."""
    namespace = {"__annotations__": {"event_type": Literal["test.made"], "content": content}}
    model: type[Event] = type("MadeEvent", (Event,), namespace | {"event_type": "test.made", "__module__": __name__})
    return model.model_validate({"stream_id": "s", "content": fields})


def mutated(event: MessageEvent, value: object) -> MessageEvent:
    event.content.parameters["value"] = value  # type: ignore[assignment]  # any value, on purpose
    return event


class Line(Content):
    number: Positive
    price: Number
    note: str | None = None


class Order(Content):
    lines: tuple[Line, ...]
    parameters: Parameters = Field(default_factory=dict)
    ordered_at: datetime | None = None
    kind: Literal["sale", "gift"] = "sale"


@pytest.mark.parametrize(
    "event",
    [
        a_message(),
        a_message(context=EventContext(user_id="u", extra={"tags": ["a", {"b": None}]})),
        a_general_message(amount=1, share=0.5),
        an_event_with(Order, lines=[{"number": 1, "price": 2.5}], parameters={"a": 1}, ordered_at="2026-01-31T12:00Z"),
        a_message().model_copy(),
        a_message().model_copy(deep=True),
        a_message().copy_with_valid({"path": ("memory",)}),
        pickle.loads(pickle.dumps(a_message())),  # noqa: S301 - made here
        a_message().caused(TextMessageEvent, content=TextContent(text="ho")),
    ],
)
def test_an_event_that_was_validated_is_not_read_back(event):
    assert not must_be_read_back(event)


INVALID = TextContent.model_construct(text="")


@pytest.mark.parametrize(
    "event",
    [
        TextMessageEvent.model_construct(stream_id="", content=TextContent(text="hi")),
        a_message().model_copy(update={"priority": 99}),
        a_message().model_copy(update={"priority": 99}).model_copy(),
        a_message().model_copy(update={"priority": 99}).copy_with_valid({"path": ("memory",)}),
        copy.deepcopy(a_message().model_copy(update={"priority": 99})),
        pickle.loads(pickle.dumps(a_message().model_copy(update={"priority": 99}))),  # noqa: S301 - made here
        a_message(content=INVALID),
        a_message(context=EventContext().model_copy(update={"source": ""})),
        a_message().caused(TextMessageEvent, content=INVALID),
        an_event_with(Order, lines=[Line.model_construct(number=0, price=1.0)]),
        mutated(a_general_message(), float("nan")),
        mutated(a_general_message(), {"a", "set"}),
        mutated(a_general_message(), ("a", "tuple")),
        mutated(a_general_message(), 2**64),
    ],
)
def test_an_event_with_a_part_that_was_made_around_validation_is_read_back(event):
    assert must_be_read_back(event)


def test_a_change_by_the_deprecated_copy_is_read_back():
    with warnings.catch_warnings(action="ignore"):
        changed = a_message().copy(update={"priority": 99})  # type: ignore[deprecated]  # tested because it is

    assert must_be_read_back(changed)


class WithInvalidDefault(Content):
    number: Positive = 0


class WithUnknownFactory(Content):
    number: Positive = Field(default_factory=lambda: 0)


class WithAlias(Content):
    number: Integer = Field(default=1, alias="Number")


class WithExcluded(Content):
    number: Integer = Field(default=1, exclude=True)


class WithValidator(Content):
    number: Annotated[Integer, AfterValidator(lambda number: number + 1)] = 1


class WithModelValidator(Content):
    number: Integer = 1

    @model_validator(mode="after")
    def _check(self) -> WithModelValidator:
        return self


class WithSerializer(Content):
    number: Annotated[Integer, PlainSerializer(lambda number: f"{number} pieces")] = 1


class WithComputed(Content):
    @computed_field  # type: ignore[prop-decorator]  # mypy does not know it on properties
    @property
    def number(self) -> int:
        return 1


class WithInit(Content):
    number: Integer = 1

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.__dict__["number"] = "one"


class WithPostInit(Content):
    number: Integer = 1

    def model_post_init(self, _: Any) -> None:
        self.__dict__["number"] = "one"


class WithList(Content):
    numbers: list[int] = Field(default_factory=list)


class WithAny(Content):
    value: Any = None


class WithInfinity(Content):
    model_config = ConfigDict(allow_inf_nan=True)
    share: float = 1.0


class WithInfiniteField(Content):
    share: Annotated[float, Field(allow_inf_nan=True)] = 1.0


class WithOwnJson(Content):
    def model_dump_json(self, **options: Any) -> str:
        return super().model_dump_json(**options).upper()


class Unfrozen(Content):
    model_config = ConfigDict(frozen=False)
    number: Integer = 1


class Plain(BaseModel):
    number: int = 1


class WithPlainModel(Content):
    plain: Plain = Plain()


class Strict(Content):
    numbers: Annotated[tuple[int, ...], Field(strict=True)] = ()


class Fancy(Content):
    model_config = ConfigDict(ser_json_bytes="base64")
    data: bytes = b"\xff"


@pytest.mark.parametrize(
    "content",
    [
        WithInvalidDefault, WithUnknownFactory, WithAlias, WithExcluded, WithValidator, WithModelValidator,
        WithSerializer, WithComputed, WithInit, WithPostInit, WithList, WithAny, WithInfinity, WithInfiniteField,
        WithOwnJson, Unfrozen, WithPlainModel, Strict, Fancy,
    ],
)  # fmt: skip
def test_an_event_whose_class_may_write_what_it_does_not_read_is_read_back(content: type[Content]) -> None:
    assert must_be_read_back(an_event_with(content))


def test_an_event_of_a_subclass_is_read_back_as_its_topics_class():
    class Loud(TextMessageEvent):
        volume: int = 11

    assert not EventRegistry().check(Loud(stream_id="s", content=TextContent(text="hi")))


def test_a_content_of_a_subclass_is_read_back():
    class Loud(TextContent):
        volume: int = 11

    assert must_be_read_back(a_message(content=Loud(text="hi")))


def test_an_event_of_a_newer_schema_is_refused_without_reading_it_back():
    with pytest.raises(InvalidEvent, check=has_code("newer_version")):
        EventRegistry().check(a_message(schema_version=7))


def test_parameters_that_were_declared_otherwise_are_refused_without_reading_the_event_back():
    registry = EventRegistry()
    registry.declare("custom.sale", {"amount": int})
    sale = {"event_type": "custom.sale", "stream_id": "s"}

    assert registry.check(CustomEvent.model_validate(sale | {"content": {"parameters": {"amount": 1}}}))
    with pytest.raises(InvalidEvent, match=r"content\.parameters\.amount"):
        registry.check(CustomEvent.model_validate(sale | {"content": {"parameters": {"amount": "1"}}}))
