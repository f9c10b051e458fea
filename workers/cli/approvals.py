"""List tool calls that wait for approval; grant or deny them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import islice

import click

from petiole.workers.cli._console import open_console, print_json
from petiole.workers.cli._options import (
    acting,
    connected_app,
    format_command,
    json_option,
    operator_option,
    reason_option,
)
from petiole.workers.observability.flow_tree import shorten
from petiole.workers.observability.printable import replace_unprintable
from petiole.workers.tools import approvals
from petiole.workers.tools.approvals import APPROVAL_STATES, Approval, ApprovalState

_MAX_SHOWN = 200


@click.group
def command() -> None:
    """List tool calls that wait for approval; grant or deny them.

    A call fails if nobody decides within PETIOLE_APPROVAL_TIMEOUT_S (one hour).
    """


@command.command("list")
@click.option(
    "--state",
    "states",
    type=click.Choice(APPROVAL_STATES),
    multiple=True,
    default=("pending",),
    show_default=True,
    help="Approvals in this state; may be repeated.",
)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="The maximum number of lines.")
@json_option
def list_(*, states: tuple[ApprovalState, ...], limit: int, as_json: bool) -> None:
    """List approvals, newest first."""
    listed = list(islice(approvals.find_approvals(states, bus=connected_app()), limit))
    if as_json:
        print_json([_approval_as_json(approval) for approval in listed])
        return
    console = open_console()
    for approval in listed:
        console.print(f"{approval.id}  {approval.state}  {_format_decision(approval)}", soft_wrap=True)
        arguments = shorten(_format_arguments(approval), _MAX_SHOWN)
        console.print(f"    {replace_unprintable(approval.call.tool)} {arguments}", soft_wrap=True)
    if not listed:
        console.print(f"no approval is {' or '.join(states)}")


@command.command
@click.argument("approval_id", metavar="ID")
@json_option
def show(approval_id: str, *, as_json: bool) -> None:
    """Show the tool call, its user, and the decision."""
    _print_approval(approvals.get_approval(approval_id, bus=connected_app()), as_json=as_json)


@command.command
@click.argument("approval_id", metavar="ID")
@operator_option
@reason_option
@json_option
def grant(approval_id: str, *, operator: str | None, reason: str, as_json: bool) -> None:
    """Grant the call with exactly the arguments that `show` prints."""
    bus = connected_app()
    with acting(bus, "approval.grant", approval_id, operator=operator, reason=reason):
        approval = approvals.grant(approval_id, by=operator, reason=reason, bus=bus)
    _print_approval(approval, as_json=as_json)


@command.command
@click.argument("approval_id", metavar="ID")
@click.option("--reason", default="", metavar="TEXT", help="The reason, which the user is given.")
@operator_option
@json_option
def deny(approval_id: str, *, reason: str, operator: str | None, as_json: bool) -> None:
    """Deny the call, which then fails."""
    bus = connected_app()
    with acting(bus, "approval.deny", approval_id, operator=operator, reason=reason):
        approval = approvals.deny(approval_id, by=operator, reason=reason, bus=bus)
    _print_approval(approval, as_json=as_json)


def _print_approval(approval: Approval, *, as_json: bool) -> None:
    if as_json:
        print_json(_approval_as_json(approval))
        return
    facts = {
        "state": approval.state,
        "tool": replace_unprintable(approval.call.tool),
        "arguments": _format_arguments(approval),
        "stream": replace_unprintable(approval.request.stream_id),
        "user": replace_unprintable(approval.request.context.user_id or "-"),
        "requested": approval.request.timestamp.isoformat(timespec="seconds"),
        "expires": approval.call.expires_at.isoformat(timespec="seconds"),
        "decided by": replace_unprintable(approval.by),
        "reason": replace_unprintable(approval.reason),
        "fingerprint": approval.call.fingerprint,
    }
    console = open_console()
    console.print(approval.id)
    for name, value in facts.items():
        if value:
            # Never cut: a grant covers everything shown here.
            console.print(f"{name:<12} {value}", soft_wrap=True)
    if approval.state == "pending":
        console.print(f"grant it: {format_command(f'approvals grant {approval.id}')}", soft_wrap=True)


def _approval_as_json(approval: Approval) -> dict[str, object]:
    call = approval.call.model_dump(mode="json")
    origin = {"stream_id": approval.request.stream_id, "user_id": approval.request.context.user_id}
    decision = {"state": approval.state, "by": approval.by or None, "reason": approval.reason or None}
    return call | origin | decision | {"decided_at": approval.decided_at.isoformat() if approval.decided_at else None}


def _format_arguments(approval: Approval) -> str:
    return replace_unprintable(json.dumps(approval.call.model_dump(mode="json")["arguments"], ensure_ascii=False))


def _format_decision(approval: Approval) -> str:
    if approval.state != "pending":
        return f"by {replace_unprintable(approval.by)}" if approval.by else "by nobody"
    left_s = max(0, int((approval.call.expires_at - datetime.now(UTC)).total_seconds()))
    return f"{left_s // 60}:{left_s % 60:02} left"
