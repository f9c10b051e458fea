"""List tool calls that wait to be granted, and grant or deny them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import islice

import click

from petiole.workers.cli._console import open_console, plain, print_json, shortened
from petiole.workers.cli._options import an_operator, as_json, as_typed, connected_app
from petiole.workers.tools import approvals
from petiole.workers.tools.approvals import APPROVAL_STATES, Approval, ApprovalState

_SHOWN = 200


@click.group
def command() -> None:
    """List tool calls that wait to be granted; grant or deny them.

    A call waits for PETIOLE_APPROVAL_TIMEOUT_S (one hour), and then it has failed.
    """


@command.command("list")
@click.option(
    "--state",
    "states",
    type=click.Choice(APPROVAL_STATES),
    multiple=True,
    default=("pending",),
    show_default=True,
    help="Those in this state; may be given several times.",
)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many lines.")
@as_json
def list_(*, states: tuple[ApprovalState, ...], limit: int, as_json: bool) -> None:
    """List approvals, the newest first."""
    found = list(islice(approvals.find(states, bus=connected_app()), limit))
    if as_json:
        print_json([_as_object(each) for each in found])
        return
    console = open_console()
    for each in found:
        console.print(f"{each.id}  {each.state}  {_when(each)}", soft_wrap=True)
        console.print(f"    {plain(each.call.tool)} {shortened(_arguments(each), _SHOWN)}", soft_wrap=True)
    if not found:
        console.print(f"none is {' or '.join(states)}")


@command.command
@click.argument("approval_id", metavar="ID")
@as_json
def show(approval_id: str, *, as_json: bool) -> None:
    """Show what is to be granted, for whom, and what was decided."""
    _show(approvals.get(approval_id, bus=connected_app()), as_json=as_json)


@command.command
@click.argument("approval_id", metavar="ID")
@an_operator
@as_json
def grant(approval_id: str, *, operator: str | None, as_json: bool) -> None:
    """Let the call run, with the arguments that `show` tells and no others."""
    _show(approvals.grant(approval_id, by=operator, bus=connected_app()), as_json=as_json)


@command.command
@click.argument("approval_id", metavar="ID")
@click.option("--reason", default="", metavar="TEXT", help="Why; whoever asked is told.")
@an_operator
@as_json
def deny(approval_id: str, *, reason: str, operator: str | None, as_json: bool) -> None:
    """Let the call fail."""
    _show(approvals.deny(approval_id, by=operator, reason=reason, bus=connected_app()), as_json=as_json)


def _show(approval: Approval, *, as_json: bool) -> None:
    if as_json:
        print_json(_as_object(approval))
        return
    facts = {
        "state": approval.state,
        "tool": plain(approval.call.tool),
        "arguments": _arguments(approval),
        "stream": plain(approval.request.stream_id),
        "user": plain(approval.request.context.user_id or "-"),
        "asked": approval.request.timestamp.isoformat(timespec="seconds"),
        "expires": approval.call.expires_at.isoformat(timespec="seconds"),
        "decided by": plain(approval.by),
        "reason": plain(approval.reason),
        "fingerprint": approval.call.fingerprint,
    }
    console = open_console()
    console.print(approval.id)
    for name, value in facts.items():
        if value:
            # Never cut: who grants a call grants all of this.
            console.print(f"{name:<12} {value}", soft_wrap=True)
    if approval.state == "pending":
        console.print(f"grant it: {as_typed(f'approvals grant {approval.id}')}", soft_wrap=True)


def _as_object(approval: Approval) -> dict[str, object]:
    asked = approval.call.model_dump(mode="json")
    who = {"stream_id": approval.request.stream_id, "user_id": approval.request.context.user_id}
    decided = {"state": approval.state, "by": approval.by or None, "reason": approval.reason or None}
    return asked | who | decided | {"decided_at": approval.decided_at.isoformat() if approval.decided_at else None}


def _arguments(approval: Approval) -> str:
    return plain(json.dumps(approval.call.model_dump(mode="json")["arguments"], ensure_ascii=False))


def _when(approval: Approval) -> str:
    if approval.state != "pending":
        return f"by {plain(approval.by)}" if approval.by else "by nobody"
    left_s = max(0, int((approval.call.expires_at - datetime.now(UTC)).total_seconds()))
    return f"{left_s // 60}:{left_s % 60:02} left"
