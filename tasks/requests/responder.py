"""Turn a function into a handler of requests that publishes the function's result as the reply.

    @data_service.answers("get_user_data")
    def get_user_data(user_id: str) -> User: ...

Parameters: the request's parameters by name, or one pydantic model of them, or the RequestEvent; and the context, if a
parameter is named `context` or annotated with its class.

Result: the value of the reply, validated if its annotation contains a pydantic model. A function that cannot reply yet
returns NO_REPLY_YET; `events.responses.build_success(request, value)` builds the reply to publish later.

The handler is read-only: setting the agent's state in it raises UsageError (read_only_violation), unless it was
declared with `read_only=False`.

Failures of the request itself are replies, without a retry and without a dead letter, so that callers cannot fill the
dead letters and their alarms:

    wrong parameters         UsageError (invalid_parameters)
    LookupError, Permanent   raised by the function: what the caller asks for does not exist, or is refused

If the function fails otherwise and for good, its delivery is dead-lettered as usual, and a failure reply is published
in the same call.
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
from petiole.events.errors import Permanent, UsageError, error_type_of, invalid_parameters
from petiole.events.event import Event
from petiole.tasks.handling.current import CurrentDelivery

HandlerFunction: TypeAlias = Callable[..., Any]
ArgumentReader: TypeAlias = Callable[[RequestEvent, CurrentDelivery], dict[str, object]]

_EVENT_NAMES = {"event", "request"}


class NoReplyYet(Enum):
    """The type of NO_REPLY_YET."""

    YET = "unanswered"


NO_REPLY_YET = NoReplyYet.YET
"""The result of a function that publishes its reply later."""


def build_responder(function: HandlerFunction, *, read_only: bool = True) -> HandlerFunction:
    """Build a handler from a function that replies. Raises UsageError if the function's parameters cannot be filled."""
    hints = _hints(function)
    read = _build_argument_reader(function, hints)
    result: TypeAdapter[Any] | None = TypeAdapter(hints["return"]) if _is_typed(hints.get("return")) else None

    def build_reply(event: RequestEvent, value: object) -> Event | None:
        if value is NO_REPLY_YET:
            return None
        if isinstance(value, ResponseSuccessEvent | ResponseFailureEvent):
            return value
        if result is not None:
            value = result.dump_python(result.validate_python(value), mode="json")
        return responses.build_success(event, value)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def answer_async(event: RequestEvent, context: CurrentDelivery) -> Event | None:
            try:
                value = await function(**read(event, replace(context, is_read_only=read_only)))
            except (LookupError, Permanent, UsageError) as error:
                return _refuse(event, context, error)
            return build_reply(event, value)

        return answer_async

    @functools.wraps(function)
    def answer(event: RequestEvent, context: CurrentDelivery) -> Event | None:
        try:
            value = function(**read(event, replace(context, is_read_only=read_only)))
        except (LookupError, Permanent, UsageError) as error:
            return _refuse(event, context, error)
        return build_reply(event, value)

    return answer


def _refuse(event: RequestEvent, context: CurrentDelivery, error: Exception) -> Event:
    """Build the reply for a failure of the request itself, and drop what the function published. Else raise `error`."""
    if isinstance(error, UsageError) and error_type_of(error) != "invalid_parameters":
        raise error
    context.outbox.suppress()
    return responses.build_error_reply(event, error)


def _hints(function: HandlerFunction) -> dict[str, Any]:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(f"{function.__name__} is a generator, but a request has one reply; return the value")
    try:
        return get_type_hints(function)
    except NameError as error:
        reason = f"its annotations cannot be read ({error}); define their classes at the top of the module"
        raise UsageError(f"{function.__name__}: {reason}") from error


def _is_typed(annotation: object) -> bool:
    """Return whether a result is validated: its annotation is a model, or a list or union of models."""
    return any(isinstance(part, type) and issubclass(part, BaseModel) for part in _parts(annotation))


def _parts(annotation: object) -> list[object]:
    return [annotation, *(part for argument in getattr(annotation, "__args__", ()) for part in _parts(argument))]


def _build_argument_reader(function: HandlerFunction, hints: Mapping[str, Any]) -> ArgumentReader:
    """Build the function that reads a handler's arguments from a request."""
    parameters = dict(inspect.signature(function).parameters)
    with_context = [name for name in parameters if _is_context(hints.get(name)) or name == "context"]
    for name in with_context:
        del parameters[name]
    fill = _build_parameter_reader(function, parameters, hints)

    def arguments(event: RequestEvent, context: CurrentDelivery) -> dict[str, object]:
        return fill(event) | dict.fromkeys(with_context, context)

    return arguments


def _is_context(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, CurrentDelivery)


def _build_parameter_reader(
    function: HandlerFunction, parameters: Mapping[str, inspect.Parameter], hints: Mapping[str, Any]
) -> Callable[[RequestEvent], dict[str, object]]:
    only = next(iter(parameters)) if len(parameters) == 1 else None
    annotation = hints.get(only) if only else None
    if only and (_is_class(annotation, Event) or (annotation is None and only in _EVENT_NAMES)):
        return lambda event: {only: event}
    if only and _is_class(annotation, BaseModel):
        return lambda event: {only: _parse_parameters(annotation, event)}
    model = _model_of(function, parameters, hints)

    def by_name(event: RequestEvent) -> dict[str, object]:
        parsed = _parse_parameters(model, event)
        # Not model_dump, which would turn nested models into dicts.
        return {name: getattr(parsed, field) for name, field in _fields(parameters).items()}

    return by_name


def _fields(parameters: Mapping[str, inspect.Parameter]) -> dict[str, str]:
    # Aliases, because pydantic reserves some names that a parameter may have.
    return {name: f"parameter_{place}" for place, name in enumerate(parameters)}


def _model_of(
    function: HandlerFunction, parameters: Mapping[str, inspect.Parameter], hints: Mapping[str, Any]
) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for name, field in _fields(parameters).items():
        parameter = parameters[name]
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise UsageError(
                f"{function.__name__} has the parameter {parameter}; declare each request parameter by name"
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[field] = (hints.get(name, Any), Field(default, alias=name))
    config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=False)
    model: type[BaseModel] = create_model(f"Parameters of {function.__name__}", __config__=config, **fields)
    return model


def _parse_parameters(model: Any, event: RequestEvent) -> BaseModel:
    """Parse a request's parameters. Raises UsageError (invalid_parameters), which names the first invalid one."""
    try:
        # As JSON, because strict validation accepts a time or a UUID as text only in JSON.
        parsed: BaseModel = model.model_validate_json(to_json(event.content.parameters))
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(step) for step in first["loc"]) or "parameters"
        raise invalid_parameters(event.content.request_type, path, str(first["msg"]).lower()) from error
    return parsed


def _is_class(annotation: object, base: type) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, base)
