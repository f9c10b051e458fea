"""Tools: runs what the orchestrator asks for, and tells how each call begins, goes on and ends.

    tools requested ──┬── execution requested ── started ── progress … ──────────────── completed or failed
                      └── execution requested ── approval requested ──┬── granted ── started … ──┘
                                                                      └── denied or expired ── failed

Each call of a request is a delivery of its own: calls run side by side, over all slots and workers, each with its own
time limit, and what one does to its worker is no other's matter. A call acts once: what came of it is kept, and said
again where it is asked for again or its delivery comes back (workers/tools/tool_calls.py,
tasks/patterns/idempotency.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from petiole.events.catalog.memory import MemoryItem
from petiole.events.catalog.orchestrator import ToolsRequestedEvent
from petiole.events.catalog.tools import (
    ApprovalDeadlineReachedEvent,
    ApprovalDeniedEvent,
    ApprovalExpiredEvent,
    ApprovalGrantedEvent,
    ToolExecution,
    ToolExecutionRequestedEvent,
)
from petiole.events.errors import (
    BrokerUnavailable,
    OperationInProgress,
    OperationOutcomeUnknown,
    PetioleError,
    QueueFull,
    StateStoreUnavailable,
    approval_denied,
    approval_expired,
)
from petiole.events.event import Event
from petiole.tasks import Agent, Context, idempotent, publish
from petiole.workers.llm.rules.intent_rules import classify_intent
from petiole.workers.retrieval import Retriever, configured_retriever
from petiole.workers.retrieval.candidates import collect_candidates, fact_owner
from petiole.workers.retrieval.keyword import search_terms
from petiole.workers.settings import WorkerSettings
from petiole.workers.state import team_state
from petiole.workers.tools import Tool, ToolContext, approvals, installed_tools
from petiole.workers.tools.tool_calls import (
    CallOutcome,
    ProgressLimiter,
    build_approval_deadline_reached,
    build_approval_requested,
    build_call_progress,
    build_call_requested,
    build_call_started,
    call_fingerprint,
    call_key,
    completed_outcome,
    failed_outcome,
)

agent = Agent("tools")

log = logging.getLogger(__name__)

LEASE_MARGIN = timedelta(seconds=30)
"""How long beyond its time limit a call elsewhere counts as under way."""


@agent.on_start
def load_tools() -> None:
    """Know the tools before the first call.

    Raises NotConfigured, UsageError (missing_extra), and what their modules raise.
    """
    installed_tools()


@agent.on_stop
def close_tool_sources() -> None:
    """End the servers that this process has started."""
    installed_tools().close()


@agent.on("orchestrator.tools.requested")
def dispatch_calls(event: ToolsRequestedEvent) -> Iterator[Event]:
    """Let each call go its own way."""
    for call in event.content.calls:
        yield build_call_requested(event, call)


@agent.on("tools.execution.requested")
def run_call(event: ToolExecutionRequestedEvent, context: Context) -> Event | None:
    """Run a call, once, or ask for it to be granted. One that cannot be run fails; that is told, and no dead letter."""
    call = event.content
    try:
        tool = installed_tools().get(call.tool)
        if tool.policy.needs_approval:
            tool.validate(call.arguments)
    except PetioleError as error:
        return fail_call(event, call, error)
    return request_approval(event) if tool.policy.needs_approval else execute_once(event, call, tool, context)


@agent.on("tools.approval.granted")
def run_granted_call(event: ApprovalGrantedEvent, context: Context) -> Event | None:
    """Run a call that was granted: exactly what was. Raises Permanent (approval_mismatch)."""
    call = event.content
    approvals.verify_decision(call.approval_id, "granted", call_fingerprint(call))
    try:
        tool = installed_tools().get(call.tool)
    except PetioleError as error:
        return fail_call(event, call, error)
    return execute_once(event, call, tool, context)


@agent.on("tools.approval.denied")
def fail_denied_call(event: ApprovalDeniedEvent) -> Event:
    """Let a call fail that was denied. Raises Permanent (approval_mismatch)."""
    call = event.content
    approvals.verify_decision(call.approval_id, "denied", call_fingerprint(call))
    return failed_outcome(call, approval_denied(call.tool, call.by, call.reason)).build_event(event, call)


@agent.on("tools.approval.expired")
def fail_expired_call(event: ApprovalExpiredEvent) -> Event:
    """Let a call fail that nobody granted in time. Raises Permanent (approval_mismatch)."""
    call = event.content
    approvals.verify_decision(call.approval_id, "expired", call_fingerprint(call))
    return failed_outcome(call, approval_expired(call.tool)).build_event(event, call)


@agent.on("tools.approval.deadline_reached")
def expire_approval(event: ApprovalDeadlineReachedEvent) -> Event | None:
    """Let an approval expire that nobody decided; one that was decided is told again, in case its teller died."""
    return approvals.mark_expired(event.content.approval_id).build_event()


def request_approval(event: ToolExecutionRequestedEvent) -> Event | None:
    """Ask for a call to be granted, until its deadline. The delivery is over then; the decision's event leads on."""
    expires_at = datetime.now(UTC) + timedelta(seconds=WorkerSettings().approval_timeout_s)
    asked = approvals.open_approval(build_approval_requested(event, event.content, expires_at))
    if asked.state != "pending":
        return asked.build_event()
    publish(build_approval_deadline_reached(asked.request), at=asked.call.expires_at)
    return asked.request


def fail_call(event: Event, call: ToolExecution, error: PetioleError) -> Event:
    """Tell of a call that cannot be run."""
    publish(build_call_started(event, call), now=True)
    return failed_outcome(call, error).build_event(event, call)


def execute_once(event: Event, call: ToolExecution, tool: Tool, context: Context) -> Event | None:
    """Run a call unless it was run, and say what came of it; nothing, where another delivery is at it and will."""
    publish(build_call_started(event, call), now=True)
    tool_context = ToolContext(event.stream_id, _progress_reporter(event, call), _memory_search(context))
    once = idempotent(
        key=lambda: call_key(event, call),
        name="tools.call",
        on_unfinished=tool.policy.on_unfinished,
        limit=timedelta(seconds=tool.policy.timeout_s) + LEASE_MARGIN,
    )
    try:
        kept = once(partial(execute, call, tool, tool_context))()
    except OperationInProgress:
        return None
    except OperationOutcomeUnknown as error:
        return failed_outcome(call, error).build_event(event, call)
    return CallOutcome.from_json(kept).build_event(event, call)


def execute(call: ToolExecution, tool: Tool, tool_context: ToolContext) -> dict[str, object]:
    """Run a call, and tell what came of it as JSON."""
    try:
        return completed_outcome(call, tool.call(call.arguments, tool_context)).as_json()
    except PetioleError as error:
        return failed_outcome(call, error).as_json()


def search_memory(query: str, limit: int, earlier: Sequence[MemoryItem], retriever: Retriever) -> list[MemoryItem]:
    """Find what was said by the query's words, or the latest where it has none; no questions about memory."""
    told = list(_exclude_memory_questions(earlier))
    return retriever.rank(query, told, limit) if search_terms(query) else told[::-1][:limit]


def _exclude_memory_questions(earlier: Sequence[MemoryItem]) -> Iterator[MemoryItem]:
    """Leave out questions about memory, and the answers after them, which quote what is there already."""
    was_asked = False
    for each in earlier:
        if each.role == "user":
            was_asked = classify_intent(each.text).intent == "recall"
        if not was_asked:
            yield each


def _progress_reporter(event: Event, call: ToolExecution) -> Callable[[float, str], None]:
    gate = ProgressLimiter()

    def report(percent: float, note: str) -> None:
        progress = build_call_progress(event, call, percent, note)
        if gate.allows(percent, time.monotonic()):
            try:
                publish(progress, now=True)
            except (BrokerUnavailable, StateStoreUnavailable, QueueFull) as error:
                # The call itself is well, and its end is not lost: that waits for the broker.
                log.warning("tool_progress.publish_failed", extra={"call_id": call.call_id, "error": str(error)})

    return report


def _memory_search(context: Context) -> Callable[[str, int], Sequence[MemoryItem]]:
    def recall(query: str, limit: int) -> Sequence[MemoryItem]:
        event = context.event
        state = team_state(context.bus)
        of_stream, facts = state.memories.read_by_key(event.stream_id), state.facts.read(fact_owner(event))
        earlier = collect_candidates(of_stream, facts, context.flow(), event.stream_id)
        return search_memory(query, limit, earlier, configured_retriever(state.vectors))

    return recall
