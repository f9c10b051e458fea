"""Tools: typed functions; name, description and the schema of their arguments are read from the signature.

    @tool
    def calculator(expression: str) -> Finding: ...

The decorated function stays a plain function. A parameter `context: ToolContext` is no argument; it
is handed in.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic_core import to_json

from events.catalog.memory import Recollection
from events.content import Value, read_value
from events.errors import InvalidArguments, Misuse, PetioleError, ToolFailed, UnknownTool
from events.validation import invalid_event

# Tools have any signature, which no single callable type can say.
ToolFunction: TypeAlias = Callable[..., Any]
AFunction = TypeVar("AFunction", bound=ToolFunction)

_CONTEXT = "context"


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a tool may ask for while it runs.

    `report(percent, note)` tells how far it is, from 0 to 100; `recall(query, limit)` looks up what was said
    before in this stream, best first, or the latest where the query has no words.
    """

    stream_id: str
    report: Callable[[float, str], None]
    recall: Callable[[str, int], Sequence[Recollection]]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a tool found: as a value, and in words that make a sentence."""

    value: Value
    text: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A function with what a caller needs to know of it."""

    name: str
    description: str
    arguments: type[BaseModel]
    function: ToolFunction
    takes_context: bool

    @property
    def schema(self) -> dict[str, object]:
        """The JSON Schema of its arguments."""
        return self.arguments.model_json_schema()

    def call(self, arguments: Mapping[str, Value], context: ToolContext) -> Finding:
        """Check the arguments and run it. Raises: InvalidArguments, ToolFailed, and ours that it raises."""
        accepted = self._accept(arguments)
        if self.takes_context:
            accepted[_CONTEXT] = context
        try:
            found = self.function(**accepted)
        except PetioleError:
            raise
        except Exception as error:
            # A tool may be anyone's code: whatever it raises, the user is owed an answer.
            raise ToolFailed(self.name, f"{type(error).__name__}: {error}") from error
        return self._finding(found)

    def _accept(self, arguments: Mapping[str, Value]) -> dict[str, object]:
        try:
            # By way of JSON: strict, yet dates, tuples and enums are read from what an event can carry.
            accepted = self.arguments.model_validate_json(to_json(arguments))
        except ValidationError as error:
            found = invalid_event(self.name, error)
            raise InvalidArguments(self.name, found.field, found.reason) from error
        return {name: getattr(accepted, name) for name in self.arguments.model_fields}

    def _finding(self, found: object) -> Finding:
        value = found.value if isinstance(found, Finding) else found
        try:
            checked = read_value(value)
        except ValueError as error:
            raise ToolFailed(self.name, f"its result {error}") from error
        return Finding(checked, found.text if isinstance(found, Finding) else _in_words(checked))


class ToolRegistry:
    """Tools by name."""

    def __init__(self) -> None:
        self._tools: dict[str, Tool] = {}

    def add(self, function: AFunction) -> AFunction:
        """Make a function a tool under its own name; usable as a decorator.

        Raises: Misuse where another tool has that name, where a parameter has no type, and for `async def`.
        """
        made = _tool_of(function)
        known = self._tools.setdefault(made.name, made)
        if known.function is not function:
            raise Misuse(f"there is a tool {made.name!r} already, in {known.function.__module__}; choose another name")
        return function

    def all(self) -> list[Tool]:
        """List the tools by name."""
        return sorted(self._tools.values(), key=lambda each: each.name)

    def get(self, name: str) -> Tool:
        """Look up a tool. Raises: UnknownTool, which names the nearest."""
        if name not in self._tools:
            nearest = difflib.get_close_matches(name, self._tools, n=1)
            raise UnknownTool(name, nearest[0] if nearest else None)
        return self._tools[name]

    def call(self, name: str, arguments: Mapping[str, Value], context: ToolContext) -> Finding:
        """Run a tool. Raises: UnknownTool, and as `Tool.call`."""
        return self.get(name).call(arguments, context)


def _tool_of(function: ToolFunction) -> Tool:
    if inspect.iscoroutinefunction(function):
        raise Misuse(f"the tool {function.__name__!r} is async; write it as a plain function")
    parameters = inspect.signature(function).parameters
    return Tool(
        name=function.__name__,
        description=(inspect.getdoc(function) or "").split("\n")[0],
        arguments=_model_of(function, [each for name, each in parameters.items() if name != _CONTEXT]),
        function=function,
        takes_context=_CONTEXT in parameters,
    )


def _model_of(function: ToolFunction, parameters: Sequence[inspect.Parameter]) -> type[BaseModel]:
    types = get_type_hints(function, include_extras=True)
    for parameter in parameters:
        if parameter.name not in types:
            raise Misuse(f"the tool {function.__name__!r} gives its parameter {parameter.name!r} no type; give it one")
    fields: dict[str, Any] = {each.name: (types[each.name], _default(each)) for each in parameters}
    return create_model(function.__name__, __config__=ConfigDict(extra="forbid", strict=True), **fields)


def _default(parameter: inspect.Parameter) -> object:
    return ... if parameter.default is inspect.Parameter.empty else parameter.default


def _in_words(value: Value) -> str:
    return value if isinstance(value, str) else to_json(value).decode()


tools = ToolRegistry()
"""The tools imported so far; `workers.tools.installed_tools()` imports those of the folder first."""

tool = tools.add
