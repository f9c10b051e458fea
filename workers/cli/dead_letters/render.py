"""Render dead letters for the command line: lists, groups, single letters, replay reports."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from petiole.events.errors import CannotReplay
from petiole.tasks.dead_letters import (
    DeadLetterGroup,
    DeadLetterRecord,
    DeadLetterReplay,
    DeadLetterReplayPlan,
    DeadLetterState,
    Progress,
)
from petiole.workers.cli._console import open_console, print_json, render_table
from petiole.workers.cli._options import format_command
from petiole.workers.observability.flow_tree import shorten
from petiole.workers.observability.printable import replace_unprintable

_MAX_REFUSALS_SHOWN = 5


def letter_as_json(record: DeadLetterRecord) -> dict[str, object]:
    """Return a letter with its state and replays as JSON."""
    shown: dict[str, object] = record.letter.model_dump(mode="json", exclude_none=True)
    shown |= {"state": record.state, "replays": record.replays}
    if record.replayed_at is not None:
        shown |= {"replayed_at": record.replayed_at.isoformat(), "replayed_by": record.replayed_by}
    return shown


def print_letters(letters: Sequence[DeadLetterRecord], counts: Mapping[DeadLetterState, int], *, is_cut: bool) -> None:
    """Print letters, two lines each, and the number of stored letters."""
    console = open_console()
    for record in letters:
        letter = record.letter
        console.print(f"{letter.id}  {letter.cause}  {record.state}  {_format_age(letter.at)}", soft_wrap=True)
        console.print(f"    {replace_unprintable(letter.subscription or '-')}: {_error_text(record)}", soft_wrap=True)
    known = ", ".join(f"{count:,} {state}" for state, count in counts.items()) or "none"
    console.print(f"shown: {len(letters):,}; stored: {known}", style="dim")
    if is_cut:
        console.print(f"list them in groups: {format_command('dead-letters list --group cause')}", style="dim")


def print_letter(record: DeadLetterRecord) -> None:
    """Print all fields of a letter."""
    letter, console = record.letter, open_console()
    replayed = (
        f"{record.replays}, last {_format_age(record.replayed_at)} by {record.replayed_by}"
        if record.replayed_at
        else "none"
    )
    facts = {
        "state": record.state,
        "cause": letter.cause,
        "subscription": letter.subscription or "-",
        "queue": letter.queue or "-",
        "dead-lettered": letter.at.isoformat(timespec="milliseconds"),
        "replays": replayed,
        "edited from": letter.edited_from,
        "fingerprint": letter.fingerprint,
        "error": f"{letter.error_type}: {letter.error}",
    }
    console.print(render_table((letter.id, ""), [(name, value) for name, value in facts.items() if value is not None]))
    for number, attempt in enumerate(letter.attempts, start=1):
        outcome = f"{attempt.error_type}: {attempt.error}" if attempt.error_type else "the worker died"
        console.print(
            replace_unprintable(
                f"attempt {number}  {attempt.at.isoformat(timespec='milliseconds')}  {attempt.worker}  {outcome}"
            )
        )
    for line in letter.traceback.splitlines():
        console.print(replace_unprintable(line), style="dim", soft_wrap=True)
    if letter.document is not None:
        console.print(json.dumps(letter.document, indent=2), soft_wrap=True)
    if letter.raw is not None:
        console.print(f"{len(letter.raw):,} bytes: {shorten(ascii(letter.raw[:200]), 200)}", soft_wrap=True)


def print_groups(groups: Sequence[DeadLetterGroup], by: str, limit: int, *, as_json: bool) -> None:
    """Print at most `limit` groups."""
    if as_json:
        print_json(
            [
                {
                    by: group.name,
                    "letters": group.count,
                    "states": group.states,
                    "oldest": group.oldest.isoformat(),
                    "newest": group.newest.isoformat(),
                    "error": group.error,
                }
                for group in groups
            ]
        )
        return
    console = open_console()
    cells = [
        (group.name, group.count, group.states["failed_again"], _format_age(group.oldest), shorten(group.error, 50))
        for group in groups[:limit]
    ]
    headings = (by, "letters", "failed again", "oldest", "one of the errors")
    console.print(render_table(headings, cells, numbers=("letters", "failed again")))
    if len(groups) > limit:
        console.print(f"and {len(groups) - limit:,} more groups; see --limit", style="dim")


def print_plan(plan: DeadLetterReplayPlan, *, as_json: bool) -> None:
    """Print how many letters a replay would deliver."""
    if as_json:
        _print_refused(plan.refused, would_send=plan.by_subscription)
        return
    console = open_console()
    if plan.by_subscription:
        console.print(
            render_table(("subscription", "letters"), plan.by_subscription.most_common(), numbers=("letters",))
        )
    console.print(f"{plan.by_subscription.total():,} would be replayed; nothing was sent")
    _print_warnings(plan.refused)


def print_replay(report: DeadLetterReplay, *, as_json: bool) -> None:
    """Print the result of a replay."""
    if as_json:
        _print_refused(
            report.refused,
            id=report.id,
            sent=report.sent,
            untouched=report.skipped,
            stopped=report.stopped,
            tally=_counts_as_json(report.progress),
        )
        return
    console = open_console()
    console.print(f"replayed {len(report.sent):,}", style="bold")
    if report.progress:
        console.print(
            ", ".join(f"{name} {count:,}" for name, count in (_counts_as_json(report.progress) or {}).items())
        )
    if report.stopped:
        console.print(f"stopped: {report.stopped}; {report.skipped:,} left untouched")
    elif report.sent and not report.progress:
        console.print(f"list their states: {format_command('dead-letters list')}", style="dim")
    _print_warnings(report.refused)


def _print_warnings(refused: Sequence[CannotReplay]) -> None:
    """Print why letters could not be replayed: each reason with its number of letters."""
    reasons: dict[str, list[str]] = {}
    for refusal in refused:
        reasons.setdefault(refusal.reason, []).append(refusal.letter_id)
    console = open_console(stderr=True)
    for reason, ids in list(reasons.items())[:_MAX_REFUSALS_SHOWN]:
        named = ids[0] if len(ids) == 1 else f"{len(ids):,} letters, such as {ids[0]},"
        console.print(f"not replayed: {named}: {reason}")
    if len(reasons) > _MAX_REFUSALS_SHOWN:
        console.print(f"and {len(reasons) - _MAX_REFUSALS_SHOWN} more reasons; --json lists all")


def _print_refused(refused: Sequence[CannotReplay], **more: object) -> None:
    """Print a result and the refused letters as JSON."""
    print_json(more | {"refused": [{"id": refusal.letter_id, "reason": refusal.reason} for refusal in refused]})


def _counts_as_json(tally: Progress | None) -> dict[str, int] | None:
    if tally is None:
        return None
    counts = {"resolved": tally.resolved, "failed_again": tally.failed_again, "replaying": tally.replaying}
    return counts | ({"deleted": tally.deleted} if tally.deleted else {})


def _error_text(record: DeadLetterRecord) -> str:
    letter = record.letter
    return shorten(replace_unprintable(f"{letter.error_type}: {letter.error}"), 120)


def _format_age(moment: datetime) -> str:
    """Format how long ago a moment was."""
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit} ago"
    return f"{seconds}s ago"
