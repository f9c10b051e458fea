"""Tools: runs the tool calls that the orchestrator requests, and publishes their start, progress and outcome.

    tools requested ──┬── execution requested ── started ── progress … ──────────────── completed or failed
                      └── execution requested ── approval requested ──┬── granted ── started … ──┘
                                                                      └── denied or expired ── failed

Each call of a request is a delivery of its own, so calls run in parallel on all workers, each with its own time limit,
and a call that crashes its worker fails alone. A call runs once: its outcome is stored and published again if the call
is requested or delivered again (workers/tools/tool_calls.py, tasks/patterns/idempotency.py). Unless its tool is
repeatable, a call with the same arguments in the same flow gets the result of the first, whatever its call id.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import TypeAlias

from pydantic_core import to_json

from petiole.events.catalog.error import ErrorEvent
from petiole.events.catalog.flow import FlowCancelledEvent
from petiole.events.catalog.input import TextMessageEvent
from petiole.events.catalog.memory import MemoryItem
from petiole.events.catalog.orchestrator import ToolsRequestedEvent
from petiole.events.catalog.tools import (
    ApprovalDeadlineReachedEvent,
    ApprovalDeniedEvent,
    ApprovalExpiredEvent,
    ApprovalGrantedEvent,
    ToolExecution,
    ToolExecutionRequestedEvent,
    ToolFailedEvent,
    ToolResultEvent,
)
from petiole.events.errors import (
    BrokerUnavailable,
    OperationInProgress,
    OperationOutcomeUnknown,
    PetioleError,
    QueueFull,
    RetryLater,
    StateStoreUnavailable,
    ToolFailed,
    UsageError,
    approval_denied,
    approval_expired,
)
from petiole.events.event import Event
from petiole.events.texts import error_text
from petiole.tasks import Agent, Context, idempotent, publish
from petiole.tasks.handling.current import current_bus
from petiole.tasks.instrumentation.tracing import trace_operation
from petiole.workers.llm.rules.intent_rules import classify_intent
from petiole.workers.retrieval import Retriever, configured_retriever, warm_up_retrieval
from petiole.workers.retrieval.candidates import collect_candidates, fact_owner
from petiole.workers.retrieval.keyword import search_terms
from petiole.workers.settings import WorkerSettings
from petiole.workers.state import team_state
from petiole.workers.tools import Tool, ToolContext, ToolRegistry, approvals, installed_tools
from petiole.workers.tools.connecting import connect_tool_sources
from petiole.workers.tools.tool_calls import (
    CallOutcome,
    ProgressLimiter,
    approval_id,
    build_approval_deadline_reached,
    build_approval_requested,
    build_call_progress,
    build_call_requested,
    build_call_started,
    call_key,
    completed_outcome,
    effect_key,
    failed_outcome,
)

agent = Agent("tools")

log = logging.getLogger(__name__)

MAX_RESULT_BYTES = 4_194_304
"""The largest result of a tool, as JSON."""

EVENT_MARGIN_BYTES = 16_384
"""The size of an event beside the result of a tool."""

SAME_CALL_DELAY_S = 0.5
"""How long a call waits while another one with the same arguments runs."""

JsonOutcome: TypeAlias = dict[str, object]

LEASE_MARGIN = timedelta(seconds=30)
"""How long after its time limit a call of another worker still counts as running."""


class CallFailed(Exception):  # noqa: N818 - named as the outcome that it becomes
    """A call of a tool failed, with `error`. A later call with the same arguments runs again."""

    def __init__(self, error: PetioleError) -> None:
        super().__init__(error)
        self.error = error


@agent.on_start
def load_tools() -> None:
    """Import the tools, connect to MCP servers, and load the retrieval model, before the first call.

    Raises NotConfigured, UsageError (missing_extra), and any error of the modules.
    """
    connect_tool_sources(ToolRegistry.connect)
    warm_up_retrieval()


@agent.on_stop
def close_tool_sources() -> None:
    """Stop the MCP servers that this process started."""
    installed_tools().close()


@agent.on("orchestrator.tools.requested")
def dispatch_calls(event: ToolsRequestedEvent) -> Iterator[Event]:
    """Publish each call as an event of its own."""
    for call in event.content.calls:
        yield build_call_requested(event, call)


@agent.on("tools.execution.requested")
def run_call(event: ToolExecutionRequestedEvent, context: Context) -> Event | None:
    """Run a call once, or request its approval. A call that cannot run publishes a failure and is not dead-lettered."""
    call = event.content
    try:
        tool = installed_tools().get(call.tool)
        if tool.policy.needs_approval:
            tool.check(call.arguments)
    except PetioleError as error:
        return fail_call(event, call, error)
    return request_approval(event) if tool.policy.needs_approval else execute_once(event, call, tool, context)


@agent.on("tools.approval.granted")
def run_granted_call(event: ApprovalGrantedEvent, context: Context) -> Event | None:
    """Run a granted call. Raises Permanent (approval_mismatch) unless it is the decision of this call."""
    call = event.content
    approvals.verify_decision(event)
    try:
        tool = installed_tools().get(call.tool)
    except PetioleError as error:
        return fail_call(event, call, error)
    return execute_once(event, call, tool, context)


@agent.on("tools.approval.denied")
def fail_denied_call(event: ApprovalDeniedEvent) -> Event:
    """Fail a denied call. Raises Permanent (approval_mismatch)."""
    call = event.content
    approvals.verify_decision(event)
    return failed_outcome(call, approval_denied(call.tool, call.by, call.reason)).build_event(event, call)


@agent.on("tools.approval.expired")
def fail_expired_call(event: ApprovalExpiredEvent) -> Event:
    """Fail a call whose approval expired. Raises Permanent (approval_mismatch)."""
    call = event.content
    approvals.verify_decision(event)
    return failed_outcome(call, approval_expired(call.tool)).build_event(event, call)


@agent.on("tools.approval.deadline_reached")
def expire_approval(event: ApprovalDeadlineReachedEvent) -> Event | None:
    """Mark a pending approval as expired. Publish an earlier decision again, because its publisher may have crashed."""
    return approvals.mark_expired(event.content.approval_id).build_event()


@agent.on("flow.cancelled")
def end_cancelled_calls(event: FlowCancelledEvent, context: Context) -> Iterator[Event]:
    """Fail each call of a cancelled flow that has not ended, and deny its approval. Each call has one outcome."""
    flow = context.flow()
    ended = {ended.content.call_id for ended in flow if isinstance(ended, ToolResultEvent | ToolFailedEvent)}
    for requested in flow:
        if isinstance(requested, ToolExecutionRequestedEvent) and requested.content.call_id not in ended:
            _deny_approval(event, requested)
            error = ToolFailed(requested.content.tool, "its flow was cancelled")
            yield failed_outcome(requested.content, error).build_event(event, requested.content)


@agent.on_error(
    "error.dead_lettered",
    # The cause of a copied approval is "permanent": it must not end the call.
    where={
        "content.parameters.subscription": {"one_of": [f"{agent.name}.run_call", f"{agent.name}.run_granted_call"]},
        "content.parameters.cause": {"one_of": ["poison", "failed"]},
    },
)
def end_dead_lettered_call(event: ErrorEvent, context: Context) -> Event | None:
    """Fail the call whose delivery became a dead letter, such as that of a tool that keeps killing its process."""
    event_id = event.content.parameters["event_id"]
    given_up = next((each for each in context.flow() if each.event_id == event_id), None)
    if not isinstance(given_up, ToolExecutionRequestedEvent | ApprovalGrantedEvent):
        return None
    call = given_up.content
    return failed_outcome(call, ToolFailed(call.tool, event.content.message)).build_event(event, call)


def _deny_approval(event: FlowCancelledEvent, requested: ToolExecutionRequestedEvent) -> None:
    try:
        approvals.deny(approval_id(requested, requested.content), by=event.content.by, reason="the flow was cancelled")
    except UsageError as error:
        if error.code not in {"unknown_approval", "approval_decided"}:
            raise


def request_approval(event: ToolExecutionRequestedEvent) -> Event | None:
    """Request approval of a call, and schedule its deadline. The event of the decision continues the call."""
    expires_at = current_bus().now() + timedelta(seconds=WorkerSettings().approval_timeout_s)
    approval = approvals.open_approval(build_approval_requested(event, event.content, expires_at))
    if approval.state != "pending":
        return approval.build_event()
    publish(build_approval_deadline_reached(approval.request), at=approval.call.expires_at)
    return approval.request


def fail_call(event: Event, call: ToolExecution, error: PetioleError) -> Event:
    """Publish the start of a call that cannot run, and return its failure."""
    publish(build_call_started(event, call), now=True)
    return failed_outcome(call, error).build_event(event, call)


def execute_once(event: Event, call: ToolExecution, tool: Tool, context: Context) -> Event | None:
    """Run a call unless it has run, and return its outcome; None while another delivery runs it."""
    publish(build_call_started(event, call), now=True)
    tool_context = ToolContext(event.stream_id, _progress_reporter(event, call), _memory_search(context))
    max_bytes = min(MAX_RESULT_BYTES, context.bus.settings.max_event_bytes - EVENT_MARGIN_BYTES)
    act: Callable[[], JsonOutcome] = partial(execute, call, tool, tool_context, max_bytes)
    if not tool.policy.is_repeatable:
        act = _once(tool, "tools.effect", partial(effect_key, event, call), act)
    try:
        outcome = _once(tool, "tools.call", partial(call_key, event, call), partial(outcome_of, call, act))()
    except OperationInProgress:
        return None
    except OperationOutcomeUnknown as error:
        return failed_outcome(call, error).build_event(event, call)
    return CallOutcome.from_json(outcome).build_event(event, call)


def _once(tool: Tool, name: str, key: Callable[[], str], act: Callable[[], JsonOutcome]) -> Callable[[], JsonOutcome]:
    limit = timedelta(seconds=tool.policy.timeout_s) + LEASE_MARGIN
    return idempotent(key=key, name=name, on_unfinished=tool.policy.on_unfinished, limit=limit)(act)


def outcome_of(call: ToolExecution, act: Callable[[], JsonOutcome]) -> JsonOutcome:
    """Return the outcome of a call, also of a failed one.

    Raises RetryLater while another call with the same arguments runs.
    """
    try:
        return CallOutcome.from_json(act()).of_call(call).as_json()
    except CallFailed as failed:
        return failed_outcome(call, failed.error).as_json()
    except OperationOutcomeUnknown as error:
        return failed_outcome(call, error).as_json()
    except OperationInProgress as error:
        raise RetryLater(f"{call.tool} is running with the same arguments", SAME_CALL_DELAY_S) from error


def execute(
    call: ToolExecution, tool: Tool, tool_context: ToolContext, max_bytes: int = MAX_RESULT_BYTES
) -> JsonOutcome:
    """Run a call, and return its result as JSON. A result that no event can hold is a failure. Raises CallFailed."""
    named = {"gen_ai.tool.name": tool.name, "gen_ai.tool.call.id": call.call_id, "gen_ai.tool.type": "function"}
    try:
        with trace_operation("execute_tool", tool.name, named):
            outcome = completed_outcome(call, tool.call(call.arguments, tool_context)).as_json()
            size = len(to_json(outcome))
            if size > max_bytes:
                raise ToolFailed(tool.name, f"its result has {size:,} bytes as JSON, allowed are {max_bytes:,}")
    except PetioleError as error:
        raise CallFailed(error) from error
    return outcome


def search_memory(query: str, limit: int, earlier: Sequence[MemoryItem], retriever: Retriever) -> list[MemoryItem]:
    """Find memories that match the query, or the latest ones if the query has no search terms.

    Questions about the memory are left out.
    """
    memories = list(_exclude_memory_questions(earlier))
    return retriever.rank(query, memories, limit) if search_terms(query) else memories[::-1][:limit]


def _exclude_memory_questions(earlier: Sequence[MemoryItem]) -> Iterator[MemoryItem]:
    """Leave out questions about the memory and their answers, which only quote other memories."""
    is_memory_question = False
    for memory in earlier:
        if memory.role == "user":
            is_memory_question = classify_intent(memory.text).intent == "recall"
        if not is_memory_question:
            yield memory


def _progress_reporter(event: Event, call: ToolExecution) -> Callable[[float, str], None]:
    limiter = ProgressLimiter()

    def report(percent: float, note: str) -> None:
        progress = build_call_progress(event, call, percent, note)
        if limiter.allows(percent, time.monotonic()):
            try:
                publish(progress, now=True)
            except (BrokerUnavailable, StateStoreUnavailable, QueueFull) as error:
                # Progress is optional: the call continues, and its outcome is published by the delivery.
                log.warning("progress.publish_failed", extra={"call_id": call.call_id, "error": error_text(error)})

    return report


def _memory_search(context: Context) -> Callable[[str, int], Sequence[MemoryItem]]:
    def recall(query: str, limit: int) -> Sequence[MemoryItem]:
        event = context.event
        state = team_state(context.bus)
        stream_memories, facts = state.memories.read_by_key(event.stream_id), state.facts.read(fact_owner(event))
        message = next((each for each in context.flow() if isinstance(each, TextMessageEvent)), None)
        own_words = message.content.text if message else query
        earlier = collect_candidates(stream_memories, facts, message or event, own_words)
        return search_memory(query, limit, earlier, configured_retriever(state.vectors))

    return recall
