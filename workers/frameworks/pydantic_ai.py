"""Pydantic AI: an agent that a handler runs goes on after a crash where it was.

    from pydantic_ai import Agent
    from petiole.workers.frameworks.pydantic_ai import PetioleDurability

    orders = Agent("openai:gpt-5", name="orders", capabilities=[PetioleDurability()])

    @agent.on("input.message.received")
    async def handle(event):
        result = await orders.run(event.content.text)

Requests to the model and calls of tools are operations of the delivery: operations.py says what a crash does to them. A
tool that may be repeated says so: `@orders.tool(metadata={"petiole": "repeat"})`. Needs the extra `pydantic-ai`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Literal, cast

from pydantic_ai import RunContext
from pydantic_ai.capabilities import WrapRunHandler
from pydantic_ai.durable_exec import (
    JSON_CODEC,
    BaseDurabilityCapability,
    DurabilityEngineSpec,
    DurableOperationBackend,
    DurableOperationId,
    JournalCallableOperationBackend,
    RoleBasedOperationConfig,
    ToolsetCallToolId,
)
from pydantic_ai.run import AgentRunResult
from pydantic_ai.tools import AgentDepsT
from pydantic_ai.toolsets import ToolsetTool

from petiole.events.errors import UsageError
from petiole.tasks.handling.current import current_context
from petiole.tasks.patterns.idempotency import DEFAULT_LIMIT, OnUnfinished
from petiole.workers.frameworks.operations import require_handler, run_operation

_METADATA_KEY = "petiole"


class PetioleDurability(BaseDurabilityCapability[AgentDepsT]):
    """The capability of an agent whose runs go on after a crash.

    Args:
        limit: How long an operation may take before it counts as unfinished for other processes.
        name: The name of the agent's operations, by default the agent's. Keep it while deliveries are attempted.
    """

    engine_spec = DurabilityEngineSpec(
        engine_name="Petiole",
        durable_unit_noun="operation",
        durable_container_noun="handler",
        codec=JSON_CODEC,
        journal_discovery=False,
        sequential_tools_in_durable_context=True,
        tool_config_key=_METADATA_KEY,
    )

    def __init__(self, *, limit: timedelta = DEFAULT_LIMIT, name: str | None = None) -> None:
        super().__init__(name=name)
        self._limit = limit

    @property
    def in_durable_context(self) -> bool:
        """Whether a handler runs the agent."""
        return current_context() is not None

    async def wrap_run(self, ctx: RunContext[AgentDepsT], *, handler: WrapRunHandler) -> AgentRunResult[Any]:
        """Run the agent. Raises UsageError outside a handler."""
        require_handler(self.name, or_else="take PetioleDurability out of its capabilities")
        return await super().wrap_run(ctx, handler=handler)

    def get_durable_operation_backend(self) -> DurableOperationBackend[OnUnfinished]:
        """Return the backend that makes the agent's operations idempotent."""
        return _OperationBackend(self.name, self._default_model_id, self._limit)


class _OperationBackend(JournalCallableOperationBackend[OnUnfinished]):
    def __init__(self, agent_name: str, default_model_id: str | None, limit: timedelta) -> None:
        config: RoleBasedOperationConfig[OnUnfinished] = RoleBasedOperationConfig(
            model="repeat", event="repeat", capability="raise", tool="raise", resolve_tool=_when_tool_is_unfinished
        )
        super().__init__(agent_name=agent_name, default_model_id=default_model_id, config=config)
        self._limit = limit

    async def execute(
        self,
        *,
        operation_id: DurableOperationId,  # noqa: ARG002 - the name identifies the operation
        name: str,
        body: Callable[[], Awaitable[object]],
        cache_key: tuple[object, ...],  # noqa: ARG002 - its position identifies the operation
        config: OnUnfinished,
    ) -> object:
        """Run an operation, or return its result if it has finished in an earlier attempt."""
        return await run_operation(f"pydantic_ai.{name}", body, on_unfinished=config, limit=self._limit)


def _when_tool_is_unfinished(
    operation_id: DurableOperationId, tool: object | None, tool_name: str
) -> OnUnfinished | Literal[False]:
    """Return what happens after a crash during an operation of a tool. Raises UsageError."""
    if not isinstance(operation_id, ToolsetCallToolId):
        return "repeat"  # it lists or checks, and has no effect
    metadata = cast("ToolsetTool[Any]", tool).tool_def.metadata if tool is not None else None
    choice = (metadata or {}).get(_METADATA_KEY, "raise")
    if choice not in {"raise", "repeat"}:
        raise UsageError(f"the metadata {_METADATA_KEY!r} of the tool {tool_name!r} must be 'raise' or 'repeat'")
    return cast("OnUnfinished", choice)
