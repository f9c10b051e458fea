"""Retention: drop dead letters by age and count, after an alarm.

    near a limit      `error.dead_letters_dropped` once a day, from 80 % of the count or 90 % of the age on
    at a limit        the same event once more before the first letter is dropped; each drop is logged
    order             first resolved and replaced letters without an alarm, the oldest first, then open ones

Workers call `apply_retention` regularly; a lock lets one of them do it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from petiole.events.catalog.error import ErrorContent, ErrorEvent
from petiole.events.content import Value
from petiole.events.errors import QueueFull, Severity
from petiole.tasks.dead_letters.selection import OPEN_STATES
from petiole.tasks.instrumentation import DeadLettersDropped, OperationFailed
from petiole.tasks.publication import batched
from petiole.tasks.publishing.commit import commit
from petiole.tasks.publishing.validation import validate
from petiole.tasks.stores.dead_letters import DeadLetterState, TimestampMs, milliseconds

if TYPE_CHECKING:
    from petiole.tasks.runtime import BusRuntime

DROPPING_EVENT_TYPE = "error.dead_letters_dropped"
COUNT_ALARM_RATIO = 0.8
"""Share of the maximum count at which the alarm is raised."""
AGE_ALARM_RATIO = 0.9
"""Share of the maximum age at which the alarm is raised."""

RETENTION_BATCH_SIZE = 500
"""Dead letters dropped in one step."""

_LOCK_TIMEOUT = timedelta(minutes=1)

DatedLetter = tuple[str, DeadLetterState, TimestampMs]


@dataclass(frozen=True, slots=True)
class RetentionResult:
    """Result of a call: letters left, letters dropped, and the alarm raised (near, dropping or None)."""

    count: int = 0
    dropped: int = 0
    alarm: str | None = None


def apply_retention(bus: BusRuntime, now: datetime | None = None) -> RetentionResult | None:
    """Drop dead letters over the limits, after an alarm; returns None while another worker does it.

    Raises BrokerUnavailable if the alarm cannot be published; no open letter is dropped then.
    """
    store = bus.stores.dead_letters
    if not store.acquire_retention_lock(f"{socket.gethostname()}:{os.getpid()}", _LOCK_TIMEOUT):
        return None
    try:
        return _apply_limits(bus, now or bus.now())
    finally:
        store.release_retention_lock()


def _apply_limits(bus: BusRuntime, now: datetime) -> RetentionResult:
    count, age, limit = bus.stores.dead_letters.count(), _retention(bus), bus.settings.max_dead_letters
    is_small = count < COUNT_ALARM_RATIO * limit
    near_age = milliseconds(now - AGE_ALARM_RATIO * age)
    is_young = all(at > near_age for _, at in bus.stores.dead_letters.list_times(limit=1))
    if is_small and is_young:
        return RetentionResult(count)
    dated = list(_list_dated(bus))
    done, open_ = _select_excess(dated, milliseconds(now - age), limit)
    dropped = _drop(bus, done)
    alarm = _raise_alarm(bus, dated, now, dropping=len(open_))
    if open_:
        bus.instrumentation.emit(DeadLettersDropped(dropped=len(open_), limit=limit, age_s=age.total_seconds()))
        dropped += _drop(bus, open_)
    return RetentionResult(count - dropped, dropped, alarm)


def _retention(bus: BusRuntime) -> timedelta:
    return timedelta(seconds=bus.settings.dead_letter_retention_s)


def _list_dated(bus: BusRuntime) -> Iterator[DatedLetter]:
    store = bus.stores.dead_letters
    for batch in batched(store.list_times(), RETENTION_BATCH_SIZE):
        states = store.states([letter_id for letter_id, _ in batch])
        yield from ((letter_id, states[letter_id] or "pending", at) for letter_id, at in batch)


def _select_excess(
    dated: Sequence[DatedLetter], cutoff: TimestampMs, limit: int
) -> tuple[list[DatedLetter], list[DatedLetter]]:
    """Select the letters to drop: those that are done, and those that are still open."""
    old = [letter for letter in dated if letter[2] <= cutoff]
    recent = dated[len(old) :]  # `dated` is sorted by time
    excess = max(0, len(recent) - limit)
    done = [letter for letter in recent if letter[1] not in OPEN_STATES][:excess]
    open_ = [letter for letter in recent if letter[1] in OPEN_STATES][: excess - len(done)]
    return (
        [letter for letter in old if letter[1] not in OPEN_STATES] + done,
        [letter for letter in old if letter[1] in OPEN_STATES] + open_,
    )


def _raise_alarm(bus: BusRuntime, dated: Sequence[DatedLetter], now: datetime, *, dropping: int) -> str | None:
    """Raise the alarm that is due and return it; None if none is."""
    open_ = [letter for letter in dated if letter[1] in OPEN_STATES]
    near_age = milliseconds(now - AGE_ALARM_RATIO * _retention(bus))
    is_near = len(open_) >= COUNT_ALARM_RATIO * bus.settings.max_dead_letters or any(
        at <= near_age for _, _, at in open_[:1]
    )
    alarm = "dropping" if dropping else "near" if is_near else None
    if alarm is None or not bus.stores.dead_letters.is_alarm_due(alarm):
        return None
    try:
        commit(bus, [validate(bus, _build_alarm(bus, open_, dropping))])
    except QueueFull as error:
        failed = OperationFailed(operation="dead_letters.publish_failed", exception=error, subject=f"alarm: {alarm}")
        bus.instrumentation.emit(failed)
    bus.stores.dead_letters.record_alarm(alarm)
    return alarm


def _build_alarm(bus: BusRuntime, open_: Sequence[DatedLetter], dropping: int) -> ErrorEvent:
    limit, age = bus.settings.max_dead_letters, _retention(bus)
    oldest = datetime.fromtimestamp(open_[0][2] / 1_000, UTC).isoformat() if open_ else None
    parameters: dict[str, Value] = {
        "count": len(open_), "limit": limit, "age": age, "oldest": oldest, "dropping": dropping,
    }  # fmt: skip
    effect = f"{dropping:,} dead letters are dropped now" if dropping else "dead letters will be dropped soon"
    message = (
        f"{effect}: there are {len(open_):,} of {limit:,}, the oldest of {oldest}; replay, discard or export them "
        "(petiole dead-letters), or raise PETIOLE_MAX_DEAD_LETTERS and PETIOLE_DEAD_LETTER_RETENTION_S"
    )
    content = ErrorContent(
        error_type="DeadLettersDropping", message=message, severity=Severity.WARNING, parameters=parameters
    )
    return ErrorEvent(event_type=DROPPING_EVENT_TYPE, content=content)


def _drop(bus: BusRuntime, dated: Sequence[DatedLetter]) -> int:
    return sum(sum(bus.stores.dead_letters.remove(batch)) for batch in batched(dated, RETENTION_BATCH_SIZE))
