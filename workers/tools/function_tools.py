"""Functions as tools: name, description and the schema of the arguments are read from the signature.

A parameter `context: ToolContext` is no argument; it is handed in.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic_core import to_json

from petiole.events.content import Value
from petiole.events.errors import UsageError, invalid_arguments
from petiole.events.validation import invalid_event
from petiole.workers.tools.tool import Accepted, Tool, ToolContext
from petiole.workers.tools.tool_policy import Terms

# Tools have any signature, which no single callable type can say.
ToolFunction: TypeAlias = Callable[..., Any]

_CONTEXT = "context"


def tool_of(function: ToolFunction, terms: Terms) -> Tool:
    """Make a tool of a function. Raises UsageError for `async def` and for a parameter without a type."""
    name = function.__name__
    if inspect.iscoroutinefunction(function):
        raise UsageError(f"the tool {name!r} is async; write it as a plain function")
    parameters = inspect.signature(function).parameters
    model = _model_of(function, [each for name, each in parameters.items() if name != _CONTEXT])

    def accept(arguments: Mapping[str, Value]) -> Accepted:
        return _accepted(name, model, arguments)

    def run(accepted: Accepted, context: ToolContext) -> object:
        return function(**accepted, **({_CONTEXT: context} if _CONTEXT in parameters else {}))

    description = (inspect.getdoc(function) or "").split("\n")[0]
    return Tool(name, description, model.model_json_schema(), accept, run, terms)


def _accepted(tool: str, model: type[BaseModel], arguments: Mapping[str, Value]) -> Accepted:
    try:
        # By way of JSON: strict, yet dates, tuples and enums are read from what an event can carry.
        accepted = model.model_validate_json(to_json(arguments))
    except ValidationError as error:
        found = invalid_event(tool, error)
        raise invalid_arguments(tool, found.field, found.reason) from error
    return {name: getattr(accepted, name) for name in model.model_fields}


def _model_of(function: ToolFunction, parameters: Sequence[inspect.Parameter]) -> type[BaseModel]:
    types = get_type_hints(function, include_extras=True)
    for parameter in parameters:
        if parameter.name not in types:
            raise UsageError(
                f"the tool {function.__name__!r} gives its parameter {parameter.name!r} no type; give it one"
            )
    fields: dict[str, Any] = {each.name: (types[each.name], _default(each)) for each in parameters}
    return create_model(function.__name__, __config__=ConfigDict(extra="forbid", strict=True), **fields)


def _default(parameter: inspect.Parameter) -> object:
    return ... if parameter.default is inspect.Parameter.empty else parameter.default
