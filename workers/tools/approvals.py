"""Approvals: tool calls that somebody grants or denies, before they run.

    asked for ──┬── granted ──▶ the call runs
                ├── denied ───▶ it has failed
                └── expired ──▶ it has failed: nobody decided within PETIOLE_APPROVAL_TIMEOUT_S

    from petiole.tasks import approvals

    for approval in approvals.find():
        approvals.grant(approval.id, by="ada")

What waits holds no worker: the delivery that asked is over, and the event of the decision leads on. Whoever decides
first decides, in the store; then it is told, under an id that follows from the approval. Where the teller dies in
between, it is told by whoever decides again, or at the deadline. `petiole approvals` is the same at the command line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
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


@dataclass(frozen=True, slots=True)
class Approval:
    """An approval: what is asked for, by which event, and what was decided."""

    request: ApprovalRequestedEvent
    state: ApprovalState
    by: str
    reason: str
    decided_at: datetime | None

    @property
    def id(self) -> str:
        """Its id."""
        return self.request.content.approval_id

    @property
    def call(self) -> ApprovalRequest:
        """What is to be run."""
        return self.request.content

    def build_event(self) -> Event | None:
        """Word the decision, always the same; None while there is none."""
        if self.state == "pending":
            return None
        asked = self.call.model_dump()
        fields: EventFields = {"event_id": str(uuid5(NAMESPACE_OID, f"{self.id} {self.state}"))}
        if self.decided_at is not None:
            fields["timestamp"] = self.decided_at
        if self.state == "expired":
            fields["content"] = ApprovalRequest(**asked)
            return self.request.caused(ApprovalExpiredEvent, **fields)
        fields["content"] = ApprovalDecision(**asked, by=self.by, reason=self.reason)
        kind = ApprovalGrantedEvent if self.state == "granted" else ApprovalDeniedEvent
        return self.request.caused(kind, **fields)


def open_approval(request: ApprovalRequestedEvent, *, bus: BusRuntime | None = None) -> Approval:
    """Keep that an approval is asked for; returns it as it was asked for first. Publishes nothing."""
    bus = current_bus(bus)
    asked = request.content
    team_state(bus).approvals.open(
        asked.approval_id, request.model_dump_json(), fingerprint=asked.fingerprint, expires_at=asked.expires_at
    )
    return get_approval(asked.approval_id, bus=bus)


def grant(approval_id: str, *, by: str | None = None, reason: str = "", bus: BusRuntime | None = None) -> Approval:
    """Let a call run. `by` is who says so, by default user@host. Safe to repeat by the same.

    Raises: UsageError (unknown_approval, approval_decided), BrokerUnavailable.
    """
    return _decide(approval_id, "granted", by or current_operator(), reason, current_bus(bus))


def deny(approval_id: str, *, by: str | None = None, reason: str = "", bus: BusRuntime | None = None) -> Approval:
    """Let a call fail, with the reason. Otherwise as `grant`."""
    return _decide(approval_id, "denied", by or current_operator(), reason, current_bus(bus))


def mark_expired(approval_id: str, *, bus: BusRuntime | None = None) -> Approval:
    """Let a call fail that nobody has decided; one that was decided stays. Publishes nothing."""
    bus = current_bus(bus)
    team_state(bus).approvals.decide(approval_id, "expired", in_time=False)
    return get_approval(approval_id, bus=bus)


def verify_decision(approval_id: str, state: ApprovalState, fingerprint: str, *, bus: BusRuntime | None = None) -> None:
    """Make sure that this was decided, of these arguments. Raises Permanent (approval_mismatch)."""
    kept = team_state(current_bus(bus)).approvals.get(approval_id)
    if kept is None or kept.state != state:
        raise approval_mismatch(approval_id, f"it is {kept.state if kept else 'not known'}, and not {state}")
    if kept.fingerprint != fingerprint:
        raise approval_mismatch(approval_id, "its tool and arguments are not those that were asked for")


def get_approval(approval_id: str, *, bus: BusRuntime | None = None) -> Approval:
    """Look an approval up. Raises UsageError (unknown_approval)."""
    bus = current_bus(bus)
    kept = team_state(bus).approvals.get(approval_id)
    if kept is None:
        raise unknown_approval(approval_id)
    return _read(bus, kept)


def find_approvals(
    states: Sequence[ApprovalState] = ("pending",), *, bus: BusRuntime | None = None
) -> Iterator[Approval]:
    """Find approvals, the newest first: those that wait, or those of other states."""
    bus = current_bus(bus)
    return (_read(bus, kept) for kept in team_state(bus).approvals.iterate_newest() if kept.state in states)


def _decide(approval_id: str, state: ApprovalState, by: str, reason: str, bus: BusRuntime) -> Approval:
    met = team_state(bus).approvals.decide(approval_id, state, by=by, reason=reason)
    found = get_approval(approval_id, bus=bus)
    if met == "late":
        raise approval_decided(approval_id, "expired", "the clock")
    # Told again also where another decided it: whoever did may have died before it was told.
    _publish(bus, found.build_event())
    if met == "already_decided" and (found.state, found.by) != (state, by):
        raise approval_decided(approval_id, found.state, found.by or "the clock")
    return found


def _publish(bus: BusRuntime, event: Event | None) -> None:
    if event is None:
        return
    context = current_context()
    if context is None:
        commit(bus, [validate(bus, event)])
    else:
        buffer(context, event)


def _read(bus: BusRuntime, record: ApprovalRecord) -> Approval:
    request = bus.event_registry.parse_json(record.request)
    if not isinstance(request, ApprovalRequestedEvent):
        raise approval_mismatch(record.id, "what asked for it is no tools.approval.requested")
    return Approval(request, record.state, record.by, record.reason, record.decided_at)
