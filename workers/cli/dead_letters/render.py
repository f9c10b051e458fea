"""Dead letters as the command line shows them: in lists, in groups, one by one, and what became of a replay."""

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
from petiole.workers.cli._console import open_console, print_json, render_table, replace_unprintable, shorten
from petiole.workers.cli._options import format_command

_MAX_REFUSALS_SHOWN = 5


def letter_as_json(kept: DeadLetterRecord) -> dict[str, object]:
    """Write a letter as JSON, with what became of it."""
    shown: dict[str, object] = kept.letter.model_dump(mode="json", exclude_none=True)
    shown |= {"state": kept.state, "replays": kept.replays}
    if kept.replayed_at is not None:
        shown |= {"replayed_at": kept.replayed_at.isoformat(), "replayed_by": kept.replayed_by}
    return shown


def print_letters(letters: Sequence[DeadLetterRecord], counts: Mapping[DeadLetterState, int], *, is_cut: bool) -> None:
    """Show letters, two lines each, and how many are kept."""
    console = open_console()
    for kept in letters:
        letter = kept.letter
        console.print(f"{letter.id}  {letter.cause}  {kept.state}  {_format_age(letter.at)}", soft_wrap=True)
        console.print(f"    {replace_unprintable(letter.subscription or '-')}: {_error_text(kept)}", soft_wrap=True)
    known = ", ".join(f"{count:,} {state}" for state, count in counts.items()) or "none"
    console.print(f"shown: {len(letters):,}; kept: {known}", style="dim")
    if is_cut:
        console.print(f"see groups of them: {format_command('dead-letters list --group cause')}", style="dim")


def print_letter(kept: DeadLetterRecord) -> None:
    """Show all that is kept of a letter."""
    letter, console = kept.letter, open_console()
    replayed = (
        f"{kept.replays}, last {_format_age(kept.replayed_at)} by {kept.replayed_by}" if kept.replayed_at else "none"
    )
    facts = {
        "state": kept.state,
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
        said = f"{attempt.error_type}: {attempt.error}" if attempt.error_type else "the worker died"
        console.print(
            replace_unprintable(
                f"attempt {number}  {attempt.at.isoformat(timespec='milliseconds')}  {attempt.worker}  {said}"
            )
        )
    for line in letter.traceback.splitlines():
        console.print(replace_unprintable(line), style="dim", soft_wrap=True)
    if letter.document is not None:
        console.print(_plain_lines(json.dumps(letter.document, indent=2)), soft_wrap=True)
    if letter.raw is not None:
        console.print(f"{len(letter.raw):,} bytes: {shorten(ascii(letter.raw[:200]), 200)}", soft_wrap=True)


def print_groups(groups: Sequence[DeadLetterGroup], by: str, limit: int, *, as_json: bool) -> None:
    """Show groups, at most so many."""
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
        (each.name, each.count, each.states["failed_again"], _format_age(each.oldest), shorten(each.error, 50))
        for each in groups[:limit]
    ]
    headings = (by, "letters", "failed again", "oldest", "one of the errors")
    console.print(render_table(headings, cells, numbers=("letters", "failed again")))
    if len(groups) > limit:
        console.print(f"and {len(groups) - limit:,} groups more; see --limit", style="dim")


def print_plan(plan: DeadLetterReplayPlan, *, as_json: bool) -> None:
    """Show what a replay would do."""
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
    """Show what a replay did."""
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
        console.print(f"see what becomes of them: {format_command('dead-letters list')}", style="dim")
    _print_warnings(report.refused)


def _print_warnings(refused: Sequence[CannotReplay]) -> None:
    """Show letters that could not be replayed, each reason once with how many have it."""
    reasons: dict[str, list[str]] = {}
    for each in refused:
        reasons.setdefault(each.reason, []).append(each.letter_id)
    console = open_console(stderr=True)
    for reason, ids in list(reasons.items())[:_MAX_REFUSALS_SHOWN]:
        named = ids[0] if len(ids) == 1 else f"{len(ids):,} letters, such as {ids[0]},"
        console.print(f"not replayed: {named}: {reason}")
    if len(reasons) > _MAX_REFUSALS_SHOWN:
        console.print(f"and {len(reasons) - _MAX_REFUSALS_SHOWN} reasons more; --json names all")


def _print_refused(refused: Sequence[CannotReplay], **more: object) -> None:
    """Print a result as JSON, with what was refused."""
    print_json(more | {"refused": [{"id": each.letter_id, "reason": each.reason} for each in refused]})


def _counts_as_json(tally: Progress | None) -> dict[str, int] | None:
    if tally is None:
        return None
    counts = {"resolved": tally.resolved, "failed_again": tally.failed_again, "replaying": tally.replaying}
    return counts | ({"deleted": tally.deleted} if tally.deleted else {})


def _error_text(kept: DeadLetterRecord) -> str:
    letter = kept.letter
    return shorten(replace_unprintable(f"{letter.error_type}: {letter.error}"), 120)


def _plain_lines(text: str) -> str:
    """Strip each line of what drives a terminal."""
    return "\n".join(replace_unprintable(line) for line in text.splitlines())


def _format_age(moment: datetime) -> str:
    """Tell how long ago a moment was."""
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit} ago"
    return f"{seconds}s ago"
