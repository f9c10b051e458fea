"""Dead letters as the command line shows them: in lists, in groups, one by one, and what became of a replay."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from petiole.events.errors import CannotReplay
from petiole.tasks.dead_letters import Group, Kept, LettersPlan, LettersReplay, State, Tally
from petiole.workers.cli._console import open_console, plain, print_json, shortened, table
from petiole.workers.cli._options import as_typed

_SHOWN_REFUSALS = 5


def as_object(kept: Kept) -> dict[str, object]:
    """Write a letter as JSON, with what became of it."""
    shown: dict[str, object] = kept.letter.model_dump(mode="json", exclude_none=True)
    shown |= {"state": kept.state, "replays": kept.replays}
    if kept.replayed_at is not None:
        shown |= {"replayed_at": kept.replayed_at.isoformat(), "replayed_by": kept.replayed_by}
    return shown


def show_list(found: Sequence[Kept], counts: Mapping[State, int], *, is_cut: bool) -> None:
    """Show letters, two lines each, and how many are kept."""
    console = open_console()
    for kept in found:
        letter = kept.letter
        console.print(f"{letter.id}  {letter.cause}  {kept.state}  {_age(letter.at)}", soft_wrap=True)
        console.print(f"    {plain(letter.subscription or '-')}: {_error(kept)}", soft_wrap=True)
    known = ", ".join(f"{count:,} {state}" for state, count in counts.items()) or "none"
    console.print(f"shown: {len(found):,}; kept: {known}", style="dim")
    if is_cut:
        console.print(f"see groups of them: {as_typed('dead-letters list --group cause')}", style="dim")


def show_letter(kept: Kept) -> None:
    """Show all that is kept of a letter."""
    letter, console = kept.letter, open_console()
    replayed = f"{kept.replays}, last {_age(kept.replayed_at)} by {kept.replayed_by}" if kept.replayed_at else "none"
    facts = {
        "state": kept.state,
        "cause": letter.cause,
        "subscription": letter.subscription or "-",
        "queue": letter.queue or "-",
        "buried": letter.at.isoformat(timespec="milliseconds"),
        "replays": replayed,
        "edited from": letter.edited_from,
        "fingerprint": letter.fingerprint,
        "error": f"{letter.error_type}: {letter.error}",
    }
    console.print(table((letter.id, ""), [(name, value) for name, value in facts.items() if value is not None]))
    for number, attempt in enumerate(letter.attempts, start=1):
        said = f"{attempt.error_type}: {attempt.error}" if attempt.error_type else "the worker died"
        console.print(
            plain(f"attempt {number}  {attempt.at.isoformat(timespec='milliseconds')}  {attempt.worker}  {said}")
        )
    for line in letter.traceback.splitlines():
        console.print(plain(line), style="dim", soft_wrap=True)
    if letter.document is not None:
        console.print(_plain_lines(json.dumps(letter.document, indent=2)), soft_wrap=True)
    if letter.raw is not None:
        console.print(f"{len(letter.raw):,} bytes: {shortened(ascii(letter.raw[:200]), 200)}", soft_wrap=True)


def show_groups(found: Sequence[Group], by: str, limit: int, *, as_json: bool) -> None:
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
                for group in found
            ]
        )
        return
    console = open_console()
    cells = [
        (each.name, each.count, each.states["failed_again"], _age(each.oldest), shortened(each.error, 50))
        for each in found[:limit]
    ]
    headings = (by, "letters", "failed again", "oldest", "one of the errors")
    console.print(table(headings, cells, numbers=("letters", "failed again")))
    if len(found) > limit:
        console.print(f"and {len(found) - limit:,} groups more; see --limit", style="dim")


def show_plan(plan: LettersPlan, *, as_json: bool) -> None:
    """Show what a replay would do."""
    if as_json:
        _print_refused(plan.refused, would_send=plan.by_subscription)
        return
    console = open_console()
    if plan.by_subscription:
        console.print(table(("subscription", "letters"), plan.by_subscription.most_common(), numbers=("letters",)))
    console.print(f"{plan.by_subscription.total():,} would be replayed; nothing was sent")
    _warn_of(plan.refused)


def show_replay(done: LettersReplay, *, as_json: bool) -> None:
    """Show what a replay did."""
    if as_json:
        _print_refused(
            done.refused,
            id=done.id,
            sent=done.sent,
            untouched=done.untouched,
            stopped=done.stopped,
            tally=_as_counts(done.tally),
        )
        return
    console = open_console()
    console.print(f"replayed {len(done.sent):,}", style="bold")
    if done.tally:
        console.print(", ".join(f"{name} {count:,}" for name, count in (_as_counts(done.tally) or {}).items()))
    if done.stopped:
        console.print(f"stopped: {done.stopped}; {done.untouched:,} left untouched")
    elif done.sent and not done.tally:
        console.print(f"see what becomes of them: {as_typed('dead-letters list')}", style="dim")
    _warn_of(done.refused)


def _warn_of(refused: Sequence[CannotReplay]) -> None:
    """Show letters that could not be replayed, each reason once with how many have it."""
    reasons: dict[str, list[str]] = {}
    for each in refused:
        reasons.setdefault(each.reason, []).append(each.letter_id)
    console = open_console(stderr=True)
    for reason, ids in list(reasons.items())[:_SHOWN_REFUSALS]:
        named = ids[0] if len(ids) == 1 else f"{len(ids):,} letters, such as {ids[0]},"
        console.print(f"not replayed: {named}: {reason}")
    if len(reasons) > _SHOWN_REFUSALS:
        console.print(f"and {len(reasons) - _SHOWN_REFUSALS} reasons more; --json names all")


def _print_refused(refused: Sequence[CannotReplay], **more: object) -> None:
    """Print a result as JSON, with what was refused."""
    print_json(more | {"refused": [{"id": each.letter_id, "reason": each.reason} for each in refused]})


def _as_counts(tally: Tally | None) -> dict[str, int] | None:
    if tally is None:
        return None
    counts = {"resolved": tally.resolved, "failed_again": tally.failed_again, "replaying": tally.replaying}
    return counts | ({"gone": tally.gone} if tally.gone else {})


def _error(kept: Kept) -> str:
    letter = kept.letter
    return shortened(plain(f"{letter.error_type}: {letter.error}"), 120)


def _plain_lines(text: str) -> str:
    """Strip each line of what drives a terminal."""
    return "\n".join(plain(line) for line in text.splitlines())


def _age(moment: datetime) -> str:
    """Tell how long ago a moment was."""
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit} ago"
    return f"{seconds}s ago"
