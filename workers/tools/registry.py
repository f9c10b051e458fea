"""The registry: tools by name, wherever they come from.

    @tool
    def calculator(expression: str) -> Finding: ...

    @tool(timeout=5, needs_approval=True)
    def order(article: str, number: int) -> str: ...

The decorated function stays a plain function (functions.py). Servers that have tools of their own are sources: theirs
go by `<server>.<tool>`.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Protocol, TypeVar, overload

from petiole.events.content import Value
from petiole.events.errors import ProviderUnavailable, UsageError, unknown_tool
from petiole.workers.tools.function_tools import ToolFunction, tool_from_function
from petiole.workers.tools.tool import Tool, ToolContext, ToolOutput
from petiole.workers.tools.tool_policy import DEFAULT_TOOL_TIMEOUT_S, OnUnfinishedCall, build_tool_policy

log = logging.getLogger(__name__)

AnyToolFunction = TypeVar("AnyToolFunction", bound=ToolFunction)


class ToolSource(Protocol):
    """Where further tools come from; asked each time, since they may change."""

    @property
    def name(self) -> str:
        """What its tools' names begin with."""

    def tools(self) -> Mapping[str, Tool]:
        """Tell its tools by full name. Raises ProviderUnavailable."""

    def get(self, name: str) -> Tool | None:
        """Look up a tool by its full name that is to be called. Raises ProviderUnavailable."""

    def close(self) -> None:
        """Let go of what it holds. It may be asked again."""


class ToolRegistry:
    """Tools by name."""

    def __init__(self) -> None:
        self._tools: dict[str, Tool] = {}
        self._functions: dict[str, ToolFunction] = {}
        self._sources: dict[str, ToolSource] = {}

    @overload
    def add(self, function: AnyToolFunction, /) -> AnyToolFunction: ...

    @overload
    def add(
        self,
        /,
        *,
        timeout: float | timedelta = DEFAULT_TOOL_TIMEOUT_S,
        needs_approval: bool = False,
        on_unfinished: OnUnfinishedCall = "repeat",
        guarded: bool | str = False,
    ) -> Callable[[AnyToolFunction], AnyToolFunction]: ...

    def add(
        self,
        function: AnyToolFunction | None = None,
        /,
        *,
        timeout: float | timedelta = DEFAULT_TOOL_TIMEOUT_S,
        needs_approval: bool = False,
        on_unfinished: OnUnfinishedCall = "repeat",
        guarded: bool | str = False,
    ) -> AnyToolFunction | Callable[[AnyToolFunction], AnyToolFunction]:
        """Make a function a tool under its own name; usable as a decorator, with or without options.

        timeout: how long a call may run; seconds, or a timedelta. One that overruns has failed.
        needs_approval: somebody grants each call before it runs.
        on_unfinished: a call whose process died in the middle is run again ("repeat"), or told as failed ("raise"):
            whether it acted nobody knows.
        guarded: calls go through the circuit breaker `tool.<name>`, or the one that is named.

        Raises: UsageError where another tool has that name, where a parameter has no type, and for `async def`;
        UsageError (invalid_option, invalid_topic).
        """

        def take(function: AnyToolFunction) -> AnyToolFunction:
            options = build_tool_policy(
                function.__name__,
                timeout=timeout,
                needs_approval=needs_approval,
                on_unfinished=on_unfinished,
                guarded=guarded,
            )
            made = tool_from_function(function, options)
            known = self._functions.setdefault(made.name, function)
            if known is not function:
                raise UsageError(f"there is a tool {made.name!r} already, in {known.__module__}; choose another name")
            self._tools[made.name] = made
            return function

        return take if function is None else take(function)

    def add_source(self, source: ToolSource) -> None:
        """Let a source's tools be known too. Raises UsageError where another one has that name."""
        known = self._sources.setdefault(source.name, source)
        if known is not source:
            raise UsageError(f"there is a source of tools {source.name!r} already; choose another name")

    def all(self) -> list[Tool]:
        """List the tools by name, without those of a source that cannot tell them now."""
        return sorted(self._all_tools(), key=lambda each: each.name)

    def get(self, name: str) -> Tool:
        """Look up a tool. Raises: UsageError (unknown_tool), which names the nearest; ProviderUnavailable."""
        source = self._sources.get(name.partition(".")[0])
        found = source.get(name) if source else self._tools.get(name)
        if found is None:
            nearest = difflib.get_close_matches(name, source.tools() if source else self._tools, n=1)
            raise unknown_tool(name, nearest[0] if nearest else None)
        return found

    def call(self, name: str, arguments: Mapping[str, Value], context: ToolContext) -> ToolOutput:
        """Run a tool. Raises: UsageError (unknown_tool), and as `Tool.call`."""
        return self.get(name).call(arguments, context)

    def close(self) -> None:
        """Let go of what sources hold."""
        for source in self._sources.values():
            source.close()

    def _all_tools(self) -> Iterator[Tool]:
        yield from self._tools.values()
        for source in self._sources.values():
            try:
                yield from source.tools().values()
            except ProviderUnavailable as error:
                # The others can be used all the same.
                log.warning("tool_source.list_failed", extra={"source": source.name, "error": str(error)})


tools = ToolRegistry()
"""The tools imported so far; `petiole.workers.tools.installed_tools()` imports those of the folder first."""

tool = tools.add
"""Make a function a tool of this process: see `ToolRegistry.add`."""
