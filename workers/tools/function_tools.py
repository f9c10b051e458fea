"""Function tools: make a tool from a function. Name, description and argument schema come from its signature.

A parameter `context` receives the `ToolContext` and is not part of the schema.
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
from petiole.workers.tools.tool import Tool, ToolContext, ValidatedArguments
from petiole.workers.tools.tool_policy import ToolPolicy

# A tool may have any signature.
ToolFunction: TypeAlias = Callable[..., Any]

_CONTEXT_PARAMETER = "context"


def tool_from_function(function: ToolFunction, policy: ToolPolicy) -> Tool:
    """Make a tool from a function. Raises UsageError for `async def` and for a parameter without a type."""
    name = function.__name__
    if inspect.iscoroutinefunction(function):
        raise UsageError(f"the tool {name!r} is async; write it as a plain function")
    parameters = inspect.signature(function).parameters
    arguments = [parameter for name, parameter in parameters.items() if name != _CONTEXT_PARAMETER]
    model = _arguments_model(function, arguments)

    def validate(arguments: Mapping[str, Value]) -> ValidatedArguments:
        return _validate_arguments(name, model, arguments)

    def run(validated: ValidatedArguments, context: ToolContext) -> object:
        return function(**validated, **({_CONTEXT_PARAMETER: context} if _CONTEXT_PARAMETER in parameters else {}))

    description = (inspect.getdoc(function) or "").split("\n")[0]
    return Tool(name, description, model.model_json_schema(), validate, run, policy)


def _validate_arguments(tool: str, model: type[BaseModel], arguments: Mapping[str, Value]) -> ValidatedArguments:
    try:
        # Through JSON, where strict mode still accepts dates, tuples and enums in their JSON form.
        validated = model.model_validate_json(to_json(arguments))
    except ValidationError as error:
        problem = invalid_event(tool, error)
        raise invalid_arguments(tool, problem.field, problem.reason) from error
    return {name: getattr(validated, name) for name in model.model_fields}


def _arguments_model(function: ToolFunction, parameters: Sequence[inspect.Parameter]) -> type[BaseModel]:
    types = get_type_hints(function, include_extras=True)
    for parameter in parameters:
        if parameter.name not in types:
            raise UsageError(
                f"the parameter {parameter.name!r} of the tool {function.__name__!r} has no type; annotate it"
            )
    fields: dict[str, Any] = {parameter.name: (types[parameter.name], _default(parameter)) for parameter in parameters}
    return create_model(function.__name__, __config__=ConfigDict(extra="forbid", strict=True), **fields)


def _default(parameter: inspect.Parameter) -> object:
    return ... if parameter.default is inspect.Parameter.empty else parameter.default
