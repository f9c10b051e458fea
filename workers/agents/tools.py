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

from petiole.events.catalog.memory import Recollection
from petiole.events.catalog.orchestrator import ToolsRequestedEvent
from petiole.events.catalog.tools import (
    ApprovalDeadlineReachedEvent,
    ApprovalDeniedEvent,
    ApprovalExpiredEvent,
    ApprovalGrantedEvent,
    CallRequestedEvent,
    RequestedCall,
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
from petiole.workers.llm.rules.intent_rules import classify
from petiole.workers.retrieval import Recall, chosen_recall
from petiole.workers.retrieval.candidates import owner_of, remembered
from petiole.workers.retrieval.keyword import words_of
from petiole.workers.settings import WorkerSettings
from petiole.workers.state import team_state
from petiole.workers.tools import Tool, ToolContext, approvals, installed_tools
from petiole.workers.tools.tool_calls import (
    Outcome,
    ProgressGate,
    approval_requested,
    completed,
    deadline_reached,
    failed,
    fingerprint,
    identity,
    progressed,
    requested,
    started,
)

agent = Agent("tools")

log = logging.getLogger(__name__)

SLACK = timedelta(seconds=30)
"""How long beyond its time limit a call elsewhere counts as under way."""


@agent.on_start
def load() -> None:
    """Know the tools before the first call.

    Raises NotConfigured, UsageError (missing_extra), and what their modules raise.
    """
    installed_tools()


@agent.on_stop
def leave() -> None:
    """End the servers that this process has started."""
    installed_tools().close()


@agent.on("orchestrator.tools.requested")
def hand_on(event: ToolsRequestedEvent) -> Iterator[Event]:
    """Let each call go its own way."""
    for call in event.content.calls:
        yield requested(event, call)


@agent.on("tools.execution.requested")
def run(event: CallRequestedEvent, context: Context) -> Event | None:
    """Run a call, once, or ask for it to be granted. One that cannot be run fails; that is told, and no dead letter."""
    call = event.content
    try:
        tool = installed_tools().get(call.tool)
        if tool.terms.needs_approval:
            tool.accept(call.arguments)
    except PetioleError as error:
        return fail(event, call, error)
    return ask(event) if tool.terms.needs_approval else carry_out(event, call, tool, context)


@agent.on("tools.approval.granted")
def run_granted(event: ApprovalGrantedEvent, context: Context) -> Event | None:
    """Run a call that was granted: exactly what was. Raises Permanent (approval_mismatch)."""
    call = event.content
    approvals.check(call.approval_id, "granted", fingerprint(call))
    try:
        tool = installed_tools().get(call.tool)
    except PetioleError as error:
        return fail(event, call, error)
    return carry_out(event, call, tool, context)


@agent.on("tools.approval.denied")
def refuse(event: ApprovalDeniedEvent) -> Event:
    """Let a call fail that was denied. Raises Permanent (approval_mismatch)."""
    call = event.content
    approvals.check(call.approval_id, "denied", fingerprint(call))
    return failed(call, approval_denied(call.tool, call.by, call.reason)).said(event, call)


@agent.on("tools.approval.expired")
def drop(event: ApprovalExpiredEvent) -> Event:
    """Let a call fail that nobody granted in time. Raises Permanent (approval_mismatch)."""
    call = event.content
    approvals.check(call.approval_id, "expired", fingerprint(call))
    return failed(call, approval_expired(call.tool)).said(event, call)


@agent.on("tools.approval.deadline_reached")
def expire(event: ApprovalDeadlineReachedEvent) -> Event | None:
    """Let an approval expire that nobody decided; one that was decided is told again, in case its teller died."""
    return approvals.expire(event.content.approval_id).told()


def ask(event: CallRequestedEvent) -> Event | None:
    """Ask for a call to be granted, until its deadline. The delivery is over then; the decision's event leads on."""
    expires_at = datetime.now(UTC) + timedelta(seconds=WorkerSettings().approval_timeout_s)
    asked = approvals.ask(approval_requested(event, event.content, expires_at))
    if asked.state != "pending":
        return asked.told()
    publish(deadline_reached(asked.request), at=asked.call.expires_at)
    return asked.request


def fail(event: Event, call: RequestedCall, error: PetioleError) -> Event:
    """Tell of a call that cannot be run."""
    publish(started(event, call), now=True)
    return failed(call, error).said(event, call)


def carry_out(event: Event, call: RequestedCall, tool: Tool, context: Context) -> Event | None:
    """Run a call unless it was run, and say what came of it; nothing, where another delivery is at it and will."""
    publish(started(event, call), now=True)
    tool_context = ToolContext(event.stream_id, _reporter(event, call), _recaller(context))
    once = idempotent(
        key=lambda: identity(event, call),
        name="tools.call",
        on_unfinished=tool.terms.on_unfinished,
        limit=timedelta(seconds=tool.terms.timeout_s) + SLACK,
    )
    try:
        kept = once(partial(outcome, call, tool, tool_context))()
    except OperationInProgress:
        return None
    except OperationOutcomeUnknown as error:
        return failed(call, error).said(event, call)
    return Outcome.read(kept).said(event, call)


def outcome(call: RequestedCall, tool: Tool, tool_context: ToolContext) -> dict[str, object]:
    """Run a call, and tell what came of it as JSON."""
    try:
        return completed(call, tool.call(call.arguments, tool_context)).as_json()
    except PetioleError as error:
        return failed(call, error).as_json()


def recollect(query: str, limit: int, earlier: Sequence[Recollection], recall: Recall) -> list[Recollection]:
    """Find what was said by the query's words, or the latest where it has none; no questions about memory."""
    told = list(_told(earlier))
    return recall.rank(query, told, limit) if words_of(query) else told[::-1][:limit]


def _told(earlier: Sequence[Recollection]) -> Iterator[Recollection]:
    """Leave out questions about memory, and the answers after them, which quote what is there already."""
    was_asked = False
    for each in earlier:
        if each.role == "user":
            was_asked = classify(each.text).intent == "recall"
        if not was_asked:
            yield each


def _reporter(event: Event, call: RequestedCall) -> Callable[[float, str], None]:
    gate = ProgressGate()

    def report(percent: float, note: str) -> None:
        progress = progressed(event, call, percent, note)
        if gate.admits(percent, time.monotonic()):
            try:
                publish(progress, now=True)
            except (BrokerUnavailable, StateStoreUnavailable, QueueFull) as error:
                # The call itself is well, and its end is not lost: that waits for the broker.
                log.warning("progress.unsaid", extra={"call_id": call.call_id, "error": str(error)})

    return report


def _recaller(context: Context) -> Callable[[str, int], Sequence[Recollection]]:
    def recall(query: str, limit: int) -> Sequence[Recollection]:
        event = context.event
        state = team_state(context.bus)
        of_stream, facts = state.memories.by_key(event.stream_id), state.facts.of(owner_of(event))
        earlier = remembered(of_stream, facts, context.flow(), event.stream_id)
        return recollect(query, limit, earlier, chosen_recall(state.vectors))

    return recall
