"""Page Failures: dead letters in groups, one letter with its attempts, and the tools of `petiole dead-letters`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from starlette.responses import Response

from petiole.events.errors import UsageError
from petiole.tasks import dead_letters
from petiole.tasks.dead_letters import DeadLetterQuery, DeadLetterRecord, locked_fields
from petiole.tasks.stores.dead_letters import DEAD_LETTER_STATES, DeadLetterState
from petiole.workers.console.formats import format_json, parse_object
from petiole.workers.console.letter_index import LetterKey

if TYPE_CHECKING:
    from petiole.workers.console.visit import Visit

LETTERS_PER_PAGE: Final = 50
MAX_GROUPS: Final = 200
_OPEN: tuple[DeadLetterState, ...] = ("pending", "failed_again", "replaying")
_REPLAYABLE: tuple[DeadLetterState, ...] = ("pending", "failed_again")
_CANARY_TIMEOUT = timedelta(seconds=60)


def list_failures(visit: Visit) -> Response:
    """Show the groups of letters that need an operator; with `all`, of every letter."""
    shows_all = bool(visit.query("all"))
    groups, missing = visit.console.letters.groups()
    shown = [each for each in groups if shows_all or any(each.states[state] for state in _OPEN)]
    return visit.render("failures.html", groups=shown[:MAX_GROUPS], missing=missing, shows_all=shows_all)


def list_letters(visit: Visit) -> Response:
    """Show the letters of a group, newest first."""
    key = _read_key(visit)
    states = _OPEN if visit.query("open") else DEAD_LETTER_STATES
    ids, missing = visit.console.letters.ids(key, states)
    number = visit.number("page", 0, 100_000)
    shown = ids[number * LETTERS_PER_PAGE : (number + 1) * LETTERS_PER_PAGE]
    records = list(visit.bus.stores.dead_letters.read(shown))
    pages = -(-len(ids) // LETTERS_PER_PAGE)
    return visit.render(
        "letters.html",
        key=key,
        letters=records,
        total=len(ids),
        missing=missing,
        number=number,
        pages=pages,
        replayable=len(visit.console.letters.ids(key, _REPLAYABLE)[0]),
    )


def show_letter(visit: Visit) -> Response:
    """Show a letter; its event is hidden."""
    return _show(visit, _find(visit))


def reveal_letter(visit: Visit) -> Response:
    """Show a letter with its event and the form to edit it, and record who asked for it."""
    record = _find(visit)
    visit.record("contents.shown", f"dead letter {record.letter.id}")
    return _show(visit, record, text=_event_text(record))


def edit_letter(visit: Visit) -> Response:
    """Store a letter with another event instead of this one; a refusal shows the text again with its reason."""
    record, text = _find(visit), visit.form.get("event", "")
    try:
        with visit.acting("dead_letter.edited", record.letter.id):
            new = dead_letters.edit(
                record.letter.id, parse_object(text, "the event"), operator=visit.operator, bus=visit.bus
            )
    except UsageError as error:
        return _show(visit, record, text=text, refusal=str(error), status=400)
    visit.console.letters.expire()
    return visit.go("/letter", id=new.id)


def discard_letter(visit: Visit) -> Response:
    """Delete a letter."""
    record = _find(visit)
    with visit.acting("dead_letter.discarded", record.letter.id):
        dead_letters.discard(DeadLetterQuery(ids=(record.letter.id,)), operator=visit.operator, bus=visit.bus)
    visit.console.letters.expire()
    return visit.go("/failures")


def start_replay(visit: Visit) -> Response:
    """Replay one letter, or a group with a canary and a rate."""
    form = visit.form
    key = LetterKey(form.get("agent", ""), form.get("cause", ""), form.get("fingerprint", ""))
    target = f"dead letter {form['id']}" if form.get("id") else f"dead letters {' '.join(key)}"
    with visit.acting("dead_letters.replayed", target):
        ids = _select(visit, key)
        canary, rate = _read_number(form.get("canary", ""), "canary"), _read_number(form.get("rate", ""), "rate")
        run = visit.console.replays.start(
            ids, operator=visit.operator, canary=int(canary), rate_hz=rate or None, timeout=_CANARY_TIMEOUT
        )
    visit.console.letters.expire()
    return visit.go("/replay", id=run.id)


def _select(visit: Visit, key: LetterKey) -> list[str]:
    """Return the letter of the form, or those of a group that can be replayed, oldest first. Raises UsageError."""
    if visit.form.get("id"):
        ids = [_find(visit, visit.form["id"]).letter.id]
        for refusal in dead_letters.plan(DeadLetterQuery(ids=tuple(ids)), bus=visit.bus).refused:
            raise refusal
        return ids
    newest_first, missing = visit.console.letters.ids(key, _REPLAYABLE)
    if missing:
        raise UsageError(f"{missing:,} letters are still to be read, and some may be of this group; reload its page")
    if not newest_first:
        raise UsageError("nothing of this group can be replayed; its letters are being replayed, or were handled")
    return newest_first[::-1]


def show_replay(visit: Visit) -> Response:
    """Show how far a replay is, to the outcome of its last letter."""
    run = visit.console.replays.get(visit.query("id"))
    if run is None:
        reason = "This console process has no such replay. The letters have their outcomes: see Failures."
        return visit.render("error.html", 404, title="Not found", reason=reason)
    progress = visit.console.replays.progress(run)
    is_over = not run.is_running and (progress is None or not progress.replaying)
    template = "_replay.html" if visit.query("part") else "replay.html"
    visit.console.letters.expire()
    return visit.render(template, run=run, progress=progress, is_over=is_over)


def _show(
    visit: Visit, record: DeadLetterRecord, *, text: str | None = None, refusal: str = "", status: int = 200
) -> Response:
    letter = record.letter
    return visit.render(
        "letter.html",
        status,
        record=record,
        letter=letter,
        text=text,
        refusal=refusal,
        locked=locked_fields(letter),
        event_type=letter.event_attribute("event_type") or letter.event_attribute("type") or "",
        stream_id=letter.event_attribute("stream_id") or letter.event_attribute("subject") or "",
        flow_id=letter.event_attribute("correlation_id") or "",
        can_replay=record.state in _REPLAYABLE,
    )


def _find(visit: Visit, letter_id: str | None = None) -> DeadLetterRecord:
    return dead_letters.get_dead_letter(letter_id or visit.query("id"), bus=visit.bus)


def _read_key(visit: Visit) -> LetterKey:
    return LetterKey(visit.query("agent"), visit.query("cause"), visit.query("fingerprint"))


def _event_text(record: DeadLetterRecord) -> str:
    letter = record.letter
    if letter.document is not None:
        return format_json(letter.document)
    return repr(letter.raw)


def _read_number(text: str, name: str) -> float:
    if not text.strip():
        return 0
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number <= 1_000_000:  # noqa: PLR2004 - more is as fast as possible
        raise UsageError(f"{name} is {text!r}; give a number from 0 to 1,000,000, or nothing")
    return number
