"""Retention: dead letters are kept by age and by number, and nobody loses one without having been told.

    near a limit      `error.dead_letters_dropped` once a day, from 80 % of the number or 90 % of the age on
    at the limit      the same once more, before the first letter is dropped; each round of drops is logged
    what goes first   letters that somebody is done with (resolved, replaced), the oldest first; of them nothing is told

Workers run this regularly, see `retain`; one of them at a time does it.
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
"""The share of the number at which the alarm is raised."""
AGE_ALARM_RATIO = 0.9
"""The share of the age at which the alarm is raised."""

RETENTION_BATCH_SIZE = 500
"""Letters that are dropped in one step."""

_LOCK_TIMEOUT = timedelta(minutes=1)

DatedLetter = tuple[str, DeadLetterState, TimestampMs]


@dataclass(frozen=True, slots=True)
class RetentionResult:
    """What a round of retention found and did; `alarm` is what was said: near, dropping, or nothing."""

    count: int = 0
    dropped: int = 0
    alarm: str | None = None


def apply_retention(bus: BusRuntime, now: datetime | None = None) -> RetentionResult | None:
    """Drop dead letters that are too old or too many, after an alarm; None where another worker is at it.

    Raises BrokerUnavailable where the alarm cannot be published; nothing was dropped then that somebody may want.
    """
    store = bus.stores.dead_letters
    if not store.acquire_retention_lock(f"{socket.gethostname()}:{os.getpid()}", _LOCK_TIMEOUT):
        return None
    try:
        return _apply_limits(bus, now or datetime.now(UTC))
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
    done, wanted = _select_excess(dated, milliseconds(now - age), limit)
    dropped = _drop(bus, done)
    alarm = _raise_alarm(bus, dated, now, dropping=len(wanted))
    if wanted:
        bus.instrumentation.emit(DeadLettersDropped(dropped=len(wanted), limit=limit, age_s=age.total_seconds()))
        dropped += _drop(bus, wanted)
    return RetentionResult(count - dropped, dropped, alarm)


def _retention(bus: BusRuntime) -> timedelta:
    return timedelta(seconds=bus.settings.dead_letter_retention_s)


def _list_dated(bus: BusRuntime) -> Iterator[DatedLetter]:
    store = bus.stores.dead_letters
    for some in batched(store.list_times(), RETENTION_BATCH_SIZE):
        states = store.states([name for name, _ in some])
        yield from ((name, states[name] or "pending", at) for name, at in some)


def _select_excess(
    dated: Sequence[DatedLetter], cutoff: TimestampMs, limit: int
) -> tuple[list[DatedLetter], list[DatedLetter]]:
    """Choose what goes: of what somebody is done with, and of what is still wanted."""
    old = [each for each in dated if each[2] <= cutoff]
    kept = dated[len(old) :]  # they are in the order of time
    excess = max(0, len(kept) - limit)
    done = [each for each in kept if each[1] not in OPEN_STATES][:excess]
    wanted = [each for each in kept if each[1] in OPEN_STATES][: excess - len(done)]
    return (
        [each for each in old if each[1] not in OPEN_STATES] + done,
        [each for each in old if each[1] in OPEN_STATES] + wanted,
    )


def _raise_alarm(bus: BusRuntime, dated: Sequence[DatedLetter], now: datetime, *, dropping: int) -> str | None:
    """Raise the alarm that is due; returns which."""
    wanted = [each for each in dated if each[1] in OPEN_STATES]
    near_age = milliseconds(now - AGE_ALARM_RATIO * _retention(bus))
    is_near = len(wanted) >= COUNT_ALARM_RATIO * bus.settings.max_dead_letters or any(
        at <= near_age for _, _, at in wanted[:1]
    )
    which = "dropping" if dropping else "near" if is_near else None
    if which is None or not bus.stores.dead_letters.is_alarm_due(which):
        return None
    try:
        commit(bus, [validate(bus, _warning(bus, wanted, dropping))])
    except QueueFull as error:
        failed = OperationFailed(operation="dead_letters.publish_failed", exception=error, subject=f"alarm: {which}")
        bus.instrumentation.emit(failed)
    bus.stores.dead_letters.record_alarm(which)
    return which


def _warning(bus: BusRuntime, wanted: Sequence[DatedLetter], dropping: int) -> ErrorEvent:
    limit, age = bus.settings.max_dead_letters, _retention(bus)
    oldest = datetime.fromtimestamp(wanted[0][2] / 1_000, UTC).isoformat() if wanted else None
    parameters: dict[str, Value] = {
        "count": len(wanted), "limit": limit, "age": age, "oldest": oldest, "dropping": dropping,
    }  # fmt: skip
    begun = f"{dropping:,} dead letters are dropped now" if dropping else "dead letters will be dropped soon"
    message = (
        f"{begun}: there are {len(wanted):,} of {limit:,}, the oldest of {oldest}; replay, discard or export them "
        "(petiole dead-letters), or raise PETIOLE_MAX_DEAD_LETTERS and PETIOLE_DEAD_LETTER_RETENTION_S"
    )
    content = ErrorContent(
        error_type="DeadLettersDropping", message=message, severity=Severity.WARNING, parameters=parameters
    )
    return ErrorEvent(event_type=DROPPING_EVENT_TYPE, content=content)


def _drop(bus: BusRuntime, dated: Sequence[DatedLetter]) -> int:
    return sum(sum(bus.stores.dead_letters.remove(some)) for some in batched(dated, RETENTION_BATCH_SIZE))
