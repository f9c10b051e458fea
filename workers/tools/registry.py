"""The tool registry: all tools by name. Entered by the decorator `tool` and by `installed_tools()`.

    @tool
    def calculator(expression: str) -> ToolOutput: ...

    @tool(timeout=5, needs_approval=True)
    def order(article: str, number: int) -> str: ...

The decorator returns the function unchanged. MCP servers are tool sources; their tools are named `<server>.<tool>`.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, TypeVar, Unpack, overload

from petiole.events.content import Value
from petiole.events.errors import PetioleError, ProviderUnavailable, UsageError, error_type_of, unknown_tool
from petiole.events.texts import error_text
from petiole.workers.tools.function_tools import ToolFunction, tool_from_function
from petiole.workers.tools.tool import Tool, ToolContext, ToolOutput
from petiole.workers.tools.tool_policy import ToolOptions, build_tool_policy

log = logging.getLogger(__name__)

AnyToolFunction = TypeVar("AnyToolFunction", bound=ToolFunction)


class ToolSource(Protocol):
    """A source of tools, such as an MCP server. Its tools may change, so they are not copied into the registry."""

    @property
    def name(self) -> str:
        """The part of its tools' names before the first dot."""

    def tools(self) -> Mapping[str, Tool]:
        """Return all tools by full name. Raises ProviderUnavailable."""

    def get(self, name: str) -> Tool | None:
        """Look up a tool by full name for a call. Raises ProviderUnavailable."""

    def close(self) -> None:
        """Release resources. The source can be used again afterwards."""


class ToolRegistry:
    """Tools by name."""

    def __init__(self) -> None:
        self._tools: dict[str, Tool] = {}
        self._functions: dict[str, ToolFunction] = {}
        self._sources: dict[str, ToolSource] = {}

    @overload
    def add(self, function: AnyToolFunction, /) -> AnyToolFunction: ...

    @overload
    def add(self, /, **options: Unpack[ToolOptions]) -> Callable[[AnyToolFunction], AnyToolFunction]: ...

    def add(
        self, function: AnyToolFunction | None = None, /, **options: Unpack[ToolOptions]
    ) -> AnyToolFunction | Callable[[AnyToolFunction], AnyToolFunction]:
        """Register a function as a tool under its own name. Usable as a decorator, with or without options.

        Args:
            function: The function; its docstring's first line describes the tool to models.
            options: `timeout`: how long a call may run, in seconds or as a timedelta (30 s); a call that exceeds it
                fails. `needs_approval`: whether a person must approve each call before it runs. `repeatable`: whether
                the same call may act more than once in a flow; if not, a call with the same arguments gets the result
                of the first. `on_unfinished`: what happens to a call whose process crashed, since its effects are
                unknown: "repeat" runs it again, "raise" fails it. `guarded`: True to call the tool through the circuit
                breaker `tool.<name>`, or the name of another one.

        Raises:
            UsageError: The name is taken, a parameter has no type, the function is async, or an option is invalid
                (invalid_option, invalid_topic).
        """

        def register(function: AnyToolFunction) -> AnyToolFunction:
            policy = build_tool_policy(function.__name__, options)
            tool = tool_from_function(function, policy)
            known = self._functions.setdefault(tool.name, function)
            if known is not function:
                raise UsageError(f"there is already a tool {tool.name!r}, in {known.__module__}; choose another name")
            self._tools[tool.name] = tool
            return function

        return register if function is None else register(function)

    def add_source(self, source: ToolSource) -> None:
        """Add a source of tools. Raises UsageError if another source has its name."""
        known = self._sources.setdefault(source.name, source)
        if known is not source:
            raise UsageError(f"there is already a source of tools {source.name!r}; choose another name")

    def all(self) -> list[Tool]:
        """List all tools by name. Tools of an unavailable source are left out."""
        return sorted(self._all_tools(), key=lambda tool: tool.name)

    def get(self, name: str) -> Tool:
        """Look up a tool. Raises UsageError (unknown_tool) with the nearest name, ProviderUnavailable."""
        source = self._sources.get(name.partition(".")[0])
        with _as_unavailable(name):
            tool = source.get(name) if source else self._tools.get(name)
            known = () if tool else source.tools() if source else self._tools
        if tool is None:
            nearest = difflib.get_close_matches(name[:200], known, n=1)
            raise unknown_tool(name, nearest[0] if nearest else None)
        return tool

    def call(self, name: str, arguments: Mapping[str, Value], context: ToolContext) -> ToolOutput:
        """Look up and call a tool. Raises the errors of `get` and of `Tool.call`."""
        return self.get(name).call(arguments, context)

    def connect(self) -> None:
        """Connect to all sources, and keep the connections for calls. A source that is unavailable is logged."""
        for source in self._sources.values():
            try:
                with _as_unavailable(source.name):
                    source.get("")  # a look-up, unlike a list, keeps the connection
            except ProviderUnavailable as error:
                log.warning("tools.connect_failed", extra={"source": source.name, "error": error_text(error)})

    def close(self) -> None:
        """Close all sources."""
        for source in self._sources.values():
            source.close()

    def _all_tools(self) -> Iterator[Tool]:
        yield from self._tools.values()
        for source in self._sources.values():
            try:
                with _as_unavailable(source.name):
                    tools = source.tools()
                yield from tools.values()
            except ProviderUnavailable as error:
                # The tools of the other sources stay usable.
                log.warning("tools.list_failed", extra={"source": source.name, "error": error_text(error)})


@contextmanager
def _as_unavailable(name: str) -> Iterator[None]:
    """Raise an unexpected error of a source, which may be anybody's code, as ProviderUnavailable."""
    try:
        yield
    except PetioleError:
        raise
    except Exception as error:
        reason = f"it raised {error_type_of(error)}: {error_text(error)}"
        raise ProviderUnavailable(f"the source of the tool {name}", reason) from error


tools = ToolRegistry()
"""The tools imported so far; `petiole.workers.tools.installed_tools()` imports those of the folder first."""

tool = tools.add
"""Make a function a tool of this process: see `ToolRegistry.add`."""
