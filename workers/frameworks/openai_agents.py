"""The OpenAI Agents SDK: an agent that a handler runs goes on after a crash where it was.

    from agents import Agent
    from petiole.workers.frameworks.openai_agents import run_agent

    orders = Agent(name="orders", model="gpt-5", tools=[look_up, charge])

    @agent.on("input.message.received")
    async def handle(event):
        result = await run_agent(orders, event.content.text, repeatable_tools=["look_up"])

`run_agent` stands for the SDK's `Runner.run`. It gives the SDK copies of the agent, and of those that it hands off to,
whose requests to the model and calls of function tools are operations of the delivery: operations.py says what a crash
does to them. Tools of MCP servers are function tools, too. Guardrails, hooks and callbacks of handoffs are run again.

Tools that the SDK itself runs on this machine (shell, computer, patches) give no place to keep their results, so an
agent that has one is refused. Needs the extra `openai-agents`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, TypeVar, cast

from agents import (
    Agent,
    ApplyPatchTool,
    ComputerTool,
    CustomTool,
    FunctionTool,
    Handoff,
    LocalShellTool,
    Model,
    ModelProvider,
    ModelResponse,
    RunConfig,
    RunContextWrapper,
    RunHooks,
    Runner,
    RunResult,
    ShellTool,
    Tool,
    ToolExecutionConfig,
    TResponseInputItem,
    handoff,
)
from agents.exceptions import AgentsException
from agents.items import TResponseStreamEvent
from agents.tool_context import ToolContext
from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from petiole.events.errors import PetioleError, UsageError
from petiole.tasks.patterns.idempotency import DEFAULT_LIMIT, OnUnfinished
from petiole.workers.frameworks.operations import require_handler, run_operation

_LOCAL_TOOLS: Final = (ApplyPatchTool, ComputerTool, CustomTool, LocalShellTool, ShellTool)
_MAX_TURNS: Final = 10
_RESPONSES: Final = TypeAdapter(ModelResponse)

ContextT = TypeVar("ContextT")


async def run_agent(
    agent: Agent[ContextT],
    user_input: str | list[TResponseInputItem],
    *,
    context: ContextT | None = None,
    max_turns: int | None = _MAX_TURNS,
    hooks: RunHooks[ContextT] | None = None,
    run_config: RunConfig | None = None,
    repeatable_tools: Collection[str] = (),
    limit: timedelta = DEFAULT_LIMIT,
) -> RunResult:
    """Run an agent in a handler. The next attempt at the delivery goes on where the run was.

    Args:
        agent: The agent, as the SDK has it. Keep the names of agents and tools while deliveries are attempted.
        user_input: The message of the user, or the items of a conversation.
        context: What the tools are given.
        max_turns: How many requests to the model the run may have; None for any number.
        hooks: The SDK's hooks; they are called again in the next attempt.
        run_config: The SDK's settings of a run, except that tools are called one after the other.
        repeatable_tools: Names of tools that are called again if the process died during a call.
        limit: How long an operation may take before it counts as unfinished for other processes.

    Raises:
        UsageError: outside a handler; or the agent has a tool that keeps no result.
        OperationOutcomeUnknown: the process died during a call of a tool.
    """
    require_handler(agent.name, or_else="run it with the SDK's Runner")
    settings = run_config or RunConfig()
    durable = _DurableRun(f"openai_agents.{agent.name}", context, frozenset(repeatable_tools), limit)
    try:
        return await Runner.run(
            await durable.copy_agent(agent),
            user_input,
            context=context,
            max_turns=max_turns,
            hooks=hooks,
            run_config=durable.copy_config(settings),
        )
    except AgentsException as error:
        if isinstance(error.__cause__, PetioleError):  # the SDK wraps what a tool raises
            raise error.__cause__ from None
        raise
    finally:
        if run_config is None:
            await settings.model_provider.aclose()


@dataclass(frozen=True, slots=True)
class _DurableRun:
    """Copies of what a run needs, whose requests and calls are operations."""

    name: str
    context: object
    repeatable_tools: frozenset[str]
    limit: timedelta

    async def copy_agent(self, agent: Agent[Any]) -> Agent[Any]:
        """Copy an agent. Raises UsageError for a tool that keeps no result."""
        tools = [*agent.tools, *await agent.get_mcp_tools(RunContextWrapper(self.context))]
        changed: dict[str, Any] = {"model": _DurableModel(agent.model, self)} if isinstance(agent.model, Model) else {}
        return agent.clone(
            tools=[self._copy_tool(agent, tool) for tool in tools],
            mcp_servers=[],
            handoffs=[self._copy_handoff(each) for each in agent.handoffs],
            **changed,
        )

    def copy_config(self, config: RunConfig) -> RunConfig:
        """Copy the settings of a run."""
        tool_execution = replace(config.tool_execution or ToolExecutionConfig(), max_function_tool_concurrency=1)
        model = _DurableModel(config.model, self) if isinstance(config.model, Model) else config.model
        provider = _DurableProvider(config.model_provider, self)
        return replace(config, model=model, model_provider=provider, tool_execution=tool_execution)

    async def operate(
        self, kind: str, body: Callable[[], Awaitable[object]], on_unfinished: OnUnfinished = "repeat"
    ) -> object:
        """Run an operation of the run."""
        return await run_operation(f"{self.name}.{kind}", body, on_unfinished=on_unfinished, limit=self.limit)

    def _copy_tool(self, agent: Agent[Any], tool: Tool) -> Tool:
        if isinstance(tool, _LOCAL_TOOLS):
            reason = f"the tool {tool.name!r} of the agent {agent.name!r} gives no place to keep its results"
            raise UsageError(f"{reason}; write it as a function tool, or run the agent with the SDK's Runner")
        if not isinstance(tool, FunctionTool):
            return tool  # the model's provider runs it: its result is part of the model's response

        async def call(context: ToolContext[Any], arguments: str) -> Any:
            async def act() -> object:
                return to_jsonable_python(await tool.on_invoke_tool(context, arguments), fallback=str)

            on_unfinished: OnUnfinished = "repeat" if tool.name in self.repeatable_tools else "raise"
            return await self.operate(f"{agent.name}.{tool.name}", act, on_unfinished)

        return replace(tool, on_invoke_tool=call)

    def _copy_handoff(self, target: Agent[Any] | Handoff[Any, Any]) -> Handoff[Any, Any]:
        original = target if isinstance(target, Handoff) else handoff(target)

        async def hand_off(context: RunContextWrapper[Any], arguments: str) -> Agent[Any]:
            return await self.copy_agent(cast("Agent[Any]", await original.on_invoke_handoff(context, arguments)))

        return replace(original, on_invoke_handoff=hand_off)


@dataclass(frozen=True, slots=True)
class _DurableProvider(ModelProvider):
    provider: ModelProvider
    run: _DurableRun

    def get_model(self, model_name: str | None) -> Model:
        """Return the provider's model, whose requests are operations."""
        return _DurableModel(self.provider.get_model(model_name), self.run)


@dataclass(frozen=True, slots=True)
class _DurableModel(Model):
    model: Model
    run: _DurableRun

    async def get_response(self, *arguments: Any, **options: Any) -> ModelResponse:
        """Ask the model, or return its response of an earlier attempt."""

        async def ask() -> object:
            response = await self.model.get_response(*arguments, **options)
            # Fields that were not set must stay so: the SDK sends the response to the model again.
            return _RESPONSES.dump_python(response, mode="json", exclude_unset=True)

        return _RESPONSES.validate_python(await self.run.operate("model", ask))

    def stream_response(self, *_: Any, **__: Any) -> AsyncIterator[TResponseStreamEvent]:
        """Raise UsageError: a stream cannot be continued."""
        raise UsageError("run_agent streams no responses; leave streaming to the SDK's Runner")

    def get_retry_advice(self, request: Any) -> Any:
        """Return the advice of the model."""
        return self.model.get_retry_advice(request)
