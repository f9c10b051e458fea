"""Page Approvals: the tool calls that wait for a person, with their exact arguments, and who decided the others."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from starlette.responses import Response

from petiole.events.errors import UsageError
from petiole.workers.tools import approvals

if TYPE_CHECKING:
    from petiole.workers.console.visit import Visit

MAX_SHOWN: Final = 100


def list_approvals(visit: Visit) -> Response:
    """Show what waits, and the last decisions."""
    pending = list(islice(approvals.find_approvals(("pending",), bus=visit.bus), MAX_SHOWN))
    decided = list(islice(approvals.find_approvals(("granted", "denied", "expired"), bus=visit.bus), 20))
    return visit.render("approvals.html", pending=pending, decided=decided)


def decide_approval(visit: Visit) -> Response:
    """Grant or deny a call. The first decision counts; a later one is told who was first."""
    approval_id, decision, reason = (visit.form.get(name, "") for name in ("id", "decision", "reason"))
    if decision not in {"grant", "deny"}:
        raise UsageError(f"decision {decision!r}: give grant or deny")
    decide = approvals.grant if decision == "grant" else approvals.deny
    with visit.acting(f"approval.{decision}", approval_id):
        decide(approval_id, by=visit.operator, reason=reason, bus=visit.bus)
    return visit.go("/approvals")
