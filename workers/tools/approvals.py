"""Approvals: a person grants or denies a tool call before it runs.

    requested ──┬── granted ──▶ the call runs
                ├── denied ───▶ the call fails
                └── expired ──▶ the call fails: no decision within PETIOLE_APPROVAL_TIMEOUT_S

    from petiole.workers.tools import approvals

    for approval in approvals.find_approvals():
        approvals.grant(approval.id, by="ada")

A pending approval occupies no worker: the delivery that requested it has ended, and the event of the decision continues
the call. The first decision is stored, then its event is published with an id derived from the approval. If the process
crashes in between, the event is published when the decision is repeated, or at the deadline. The command line has
`petiole approvals`.

A decision belongs to one call of one flow and is used once. A granted call runs under the idempotency key of the call,
and the decision is kept no longer than that key's record, so it cannot run the call again after the record is gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, TypeAlias
from uuid import NAMESPACE_OID, uuid5

from petiole.events.catalog.tools import (
    ApprovalDecision,
    ApprovalDeniedEvent,
    ApprovalExpiredEvent,
    ApprovalGrantedEvent,
    ApprovalRequest,
    ApprovalRequestedEvent,
)
from petiole.events.errors import approval_decided, approval_mismatch, unknown_approval
from petiole.events.event import Event, EventFields
from petiole.tasks.handling.buffering import buffer
from petiole.tasks.handling.current import current_bus, current_context
from petiole.tasks.operations.operator import current_operator
from petiole.tasks.publishing.commit import commit
from petiole.tasks.publishing.validation import validate
from petiole.workers.state import team_state
from petiole.workers.state.approvals import APPROVAL_STATES, ApprovalRecord, ApprovalState

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

__all__ = [
    "APPROVAL_STATES",
    "Approval",
    "ApprovalState",
    "deny",
    "find_approvals",
    "get_approval",
    "grant",
    "mark_expired",
    "open_approval",
    "verify_decision",
]

DecisionEvent: TypeAlias = ApprovalGrantedEvent | ApprovalDeniedEvent | ApprovalExpiredEvent

_DEADLINE = "its deadline"
_IDENTITY = {"event_id", "stream_id", "correlation_id", "context", "content"}


@dataclass(frozen=True, slots=True)
class Approval:
    """An approval: the request and the decision."""

    request: ApprovalRequestedEvent
    state: ApprovalState
    by: str
    reason: str
    decided_at: datetime | None

    @property
    def id(self) -> str:
        """The id of the approval."""
        return self.request.content.approval_id

    @property
    def call(self) -> ApprovalRequest:
        """The call to approve."""
        return self.request.content

    def build_event(self) -> DecisionEvent | None:
        """Build the event of the decision, always the same; None while the approval is pending."""
        if self.state == "pending":
            return None
        call_fields = self.call.model_dump()
        fields: EventFields = {"event_id": str(uuid5(NAMESPACE_OID, f"{self.id} {self.state}"))}
        if self.decided_at is not None:
            fields["timestamp"] = self.decided_at
        if self.state == "expired":
            fields["content"] = ApprovalRequest(**call_fields)
            return self.request.caused(ApprovalExpiredEvent, **fields)
        fields["content"] = ApprovalDecision(**call_fields, by=self.by, reason=self.reason)
        if self.state == "granted":
            return self.request.caused(ApprovalGrantedEvent, **fields)
        return self.request.caused(ApprovalDeniedEvent, **fields)


def open_approval(request: ApprovalRequestedEvent, *, bus: BusRuntime | None = None) -> Approval:
    """Store a request for approval, and return the stored approval. The first request wins. Publishes nothing."""
    bus = current_bus(bus)
    call = request.content
    team_state(bus).approvals.open(call.approval_id, request.model_dump_json(), expires_at=call.expires_at)
    return get_approval(call.approval_id, bus=bus)


def grant(approval_id: str, *, by: str | None = None, reason: str = "", bus: BusRuntime | None = None) -> Approval:
    """Approve a call. `by` is the name of the person, by default user@host. The same person may repeat it.

    Raises: UsageError (unknown_approval, approval_decided), BrokerUnavailable.
    """
    return _decide(approval_id, "granted", by or current_operator(), reason, current_bus(bus))


def deny(approval_id: str, *, by: str | None = None, reason: str = "", bus: BusRuntime | None = None) -> Approval:
    """Deny a call, for a reason. Otherwise like `grant`."""
    return _decide(approval_id, "denied", by or current_operator(), reason, current_bus(bus))


def mark_expired(approval_id: str, *, bus: BusRuntime | None = None) -> Approval:
    """Mark a pending approval as expired; an earlier decision stays. Publishes nothing."""
    bus = current_bus(bus)
    team_state(bus).approvals.decide(approval_id, "expired", in_time=False)
    return get_approval(approval_id, bus=bus)


def verify_decision(event: DecisionEvent, *, bus: BusRuntime | None = None) -> None:
    """Verify that this is the event of a decision that was made: same id, flow and call. Raises Permanent.

    A copy under another event id, stream, flow or call id is refused (approval_mismatch), so a decision continues one
    call.
    """
    bus = current_bus(bus)
    approval_id = event.content.approval_id
    record = team_state(bus).approvals.get(approval_id)
    decided = _read(bus, record).build_event() if record else None
    if decided is None or decided.event_type != event.event_type:
        state = record.state if record else "not_found"
        raise approval_mismatch(approval_id, f"it is {state}, not {event.event_type.rpartition('.')[2]}")
    expected = _identity(decided)
    different = sorted(name for name, value in _identity(event).items() if value != expected[name])
    if different:
        raise approval_mismatch(approval_id, f"the event differs from the decision in {', '.join(different)}")


def get_approval(approval_id: str, *, bus: BusRuntime | None = None) -> Approval:
    """Look up an approval. Raises UsageError (unknown_approval)."""
    bus = current_bus(bus)
    record = team_state(bus).approvals.get(approval_id)
    if record is None:
        raise unknown_approval(approval_id)
    return _read(bus, record)


def find_approvals(
    states: Sequence[ApprovalState] = ("pending",), *, bus: BusRuntime | None = None
) -> Iterator[Approval]:
    """Find approvals in these states, newest first."""
    bus = current_bus(bus)
    return (_read(bus, record) for record in team_state(bus).approvals.iterate_newest() if record.state in states)


def _identity(event: Event) -> dict[str, str]:
    # As JSON, because Python counts true and 1 as equal.
    fields = event.model_dump(mode="json", include=_IDENTITY)
    return {name: json.dumps(value, sort_keys=True) for name, value in fields.items()}


def _decide(approval_id: str, state: ApprovalState, by: str, reason: str, bus: BusRuntime) -> Approval:
    result = team_state(bus).approvals.decide(approval_id, state, by=by, reason=reason)
    approval = get_approval(approval_id, bus=bus)
    if result == "late":
        raise approval_decided(approval_id, "expired", _DEADLINE)
    # Also published for an earlier decision, whose process may have crashed before it published the event.
    _publish(bus, approval.build_event())
    if result == "already_decided" and (approval.state, approval.by) != (state, by):
        raise approval_decided(approval_id, approval.state, approval.by or _DEADLINE)
    return approval


def _publish(bus: BusRuntime, event: Event | None) -> None:
    if event is None:
        return
    context = current_context()
    if context is None:
        commit(bus, [validate(bus, event)])
    else:
        buffer(context, event)


def _read(bus: BusRuntime, record: ApprovalRecord) -> Approval:
    request = bus.event_registry.read_json(record.request)
    if not isinstance(request, ApprovalRequestedEvent):
        raise approval_mismatch(record.id, f"its request is {request.event_type}, not tools.approval.requested")
    return Approval(request, record.state, record.by, record.reason, record.decided_at)
