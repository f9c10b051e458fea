"""Answering: the responder's half of a request. A function that returns a value becomes a handler of requests.

    @data_service.answers("get_user_data")
    def get_user_data(user_id: str) -> User: ...

The function takes the request's parameters by name, or one pydantic model of them, or the RequestEvent itself; and the
context, where a parameter is annotated so. What it returns is the answer; where its result is annotated, it is held to
that. One that cannot answer yet returns UNANSWERED, and somebody publishes `responses.success(request, value)` later.

An answer is read-only: setting the agent's state in it raises UsageError (read_only_violation), unless
`read_only=False` is said.

A function that fails has answered, too: its delivery is buried as any other, and a failure is said in the same step.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum
from typing import Any, TypeAlias, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic_core import to_json

from petiole.events import responses
from petiole.events.catalog.request import RequestEvent, ResponseFailureEvent, ResponseSuccessEvent
from petiole.events.errors import UsageError, invalid_parameters
from petiole.events.event import Event
from petiole.tasks.handling.current import CurrentDelivery

Function: TypeAlias = Callable[..., Any]
Arguments: TypeAlias = Callable[[RequestEvent, CurrentDelivery], dict[str, object]]

_EVENT_NAMES = {"event", "request"}


class Unanswered(Enum):
    """The one value of UNANSWERED."""

    YET = "unanswered"


UNANSWERED = Unanswered.YET
"""What a function returns that answers later, by publishing the answer."""


def answerer(function: Function, *, read_only: bool = True) -> Function:
    """Make a handler of a function that answers. Raises UsageError for a function whose parameters cannot be filled."""
    hints = _hints(function)
    read = _reader(function, hints)
    result: TypeAdapter[Any] | None = TypeAdapter(hints["return"]) if _is_typed(hints.get("return")) else None

    def worded(event: RequestEvent, value: object) -> Event | None:
        if value is UNANSWERED:
            return None
        if isinstance(value, ResponseSuccessEvent | ResponseFailureEvent):
            return value
        if result is not None:
            value = result.dump_python(result.validate_python(value), mode="json")
        return responses.success(event, value)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def answer_async(event: RequestEvent, context: CurrentDelivery) -> Event | None:
            return worded(event, await function(**read(event, replace(context, is_read_only=read_only))))

        return answer_async

    @functools.wraps(function)
    def answer(event: RequestEvent, context: CurrentDelivery) -> Event | None:
        return worded(event, function(**read(event, replace(context, is_read_only=read_only))))

    return answer


def _hints(function: Function) -> dict[str, Any]:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(f"{function.__name__} is a generator, and a request has one answer: return it")
    try:
        return get_type_hints(function)
    except NameError as error:
        reason = f"its annotations cannot be read ({error}); define their classes at the top of the module"
        raise UsageError(f"{function.__name__}: {reason}") from error


def _is_typed(annotation: object) -> bool:
    """Tell whether a result is to be held to its annotation: models, and lists and unions of them."""
    return any(isinstance(each, type) and issubclass(each, BaseModel) for each in _parts(annotation))


def _parts(annotation: object) -> list[object]:
    return [annotation, *(part for each in getattr(annotation, "__args__", ()) for part in _parts(each))]


def _reader(function: Function, hints: Mapping[str, Any]) -> Arguments:
    """Decide how a function's parameters are filled."""
    parameters = dict(inspect.signature(function).parameters)
    with_context = [name for name in parameters if _is_context(hints.get(name)) or name == "context"]
    for name in with_context:
        del parameters[name]
    fill = _filler(function, parameters, hints)

    def arguments(event: RequestEvent, context: CurrentDelivery) -> dict[str, object]:
        return fill(event) | dict.fromkeys(with_context, context)

    return arguments


def _is_context(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, CurrentDelivery)


def _filler(
    function: Function, parameters: Mapping[str, inspect.Parameter], hints: Mapping[str, Any]
) -> Callable[[RequestEvent], dict[str, object]]:
    only = next(iter(parameters)) if len(parameters) == 1 else None
    annotation = hints.get(only) if only else None
    if only and (_is_class(annotation, Event) or (annotation is None and only in _EVENT_NAMES)):
        return lambda event: {only: event}
    if only and _is_class(annotation, BaseModel):
        return lambda event: {only: _validated(annotation, event)}
    model = _model_of(function, parameters, hints)

    def by_name(event: RequestEvent) -> dict[str, object]:
        read = _validated(model, event)
        # Not dumped: what is a model within stays one.
        return {name: getattr(read, field) for name, field in _fields(parameters).items()}

    return by_name


def _fields(parameters: Mapping[str, inspect.Parameter]) -> dict[str, str]:
    # Aliases: a parameter's name may be one that pydantic keeps for itself.
    return {name: f"parameter_{place}" for place, name in enumerate(parameters)}


def _model_of(
    function: Function, parameters: Mapping[str, inspect.Parameter], hints: Mapping[str, Any]
) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for name, field in _fields(parameters).items():
        each = parameters[name]
        if each.kind not in {each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY}:
            raise UsageError(f"{function.__name__} takes {each}; name each parameter of the request")
        default = ... if each.default is each.empty else each.default
        fields[field] = (hints.get(name, Any), Field(default, alias=name))
    config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=False)
    made: type[BaseModel] = create_model(f"Parameters of {function.__name__}", __config__=config, **fields)
    return made


def _validated(model: Any, event: RequestEvent) -> BaseModel:
    """Read a request's parameters. Raises UsageError (invalid_parameters), which names the first that is wrong."""
    try:
        # By way of JSON, in which a time or a UUID is a text, and yet "5" is no number.
        read: BaseModel = model.model_validate_json(to_json(event.content.parameters))
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(step) for step in first["loc"]) or "parameters"
        raise invalid_parameters(event.content.request_type, path, str(first["msg"]).lower()) from error
    return read


def _is_class(annotation: object, base: type) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, base)
