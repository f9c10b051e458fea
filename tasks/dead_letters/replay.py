"""Replay dead letters: deliver each again, once, and record the outcome in its state.

    start       of all callers, one starts the n-th replay of a letter. On a Redis broker the message is sent in the
                same step, on other brokers after it.
    audit       `dead_letters.letter.replayed` is published for each
    outcome     the worker that handles the replay records resolved or failed_again (tasks/delivery.py)

With a canary some letters are sent first, and the rest only if all of those were handled. If a sender crashes between
start and send, the replay can be started again under the same number after RESEND_AFTER.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated

from pydantic import Field

from petiole.events.arguments import checks_arguments
from petiole.events.catalog.dead_letters import (
    DeadLetterReplayedEvent,
    DeadLetterReplayRequestedEvent,
    ReplayedLetter,
    RequestedReplay,
)
from petiole.events.content import Duration, Text
from petiole.events.errors import CannotReplay
from petiole.events.ids import ReservedIndex, emitted_event_id
from petiole.tasks.broker.producer import ConfirmingProducer, open_producer
from petiole.tasks.broker.topology import PUBLISH_TASK
from petiole.tasks.dead_letters.replay_messages import LetterReplay, build_replay, build_replay_start, send_replay
from petiole.tasks.dead_letters.selection import QUERY, DeadLetterQuery, find_dead_letters
from petiole.tasks.handling.current import current_bus
from petiole.tasks.operations.audit import publish_audit_events
from petiole.tasks.operations.operator import current_operator
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.dead_letters import DeadLetterRecord

RESEND_AFTER = timedelta(minutes=10)
"""When a replay without an outcome may be sent again. If the first message is still queued, the inbox skips one."""

REPLAY_BATCH_SIZE = 100
"""Dead letters started in one round trip."""

_IDS = list[str] | tuple[str, ...]
_POLLS_PER_S = 20
_MIN_POLL_INTERVAL_S, _MAX_POLL_INTERVAL_S = 0.02, 0.5

_REFUSAL_REASONS = {
    "replaying": "it is being replayed; wait for its outcome: petiole dead-letters show ID",
    "replayed_meanwhile": "it was replayed meanwhile; look at it: petiole dead-letters show ID",
    "resolved": "a replay of it was handled; there is nothing left to do",
    "replaced": "it was edited and replaced by another letter; replay that one",
    "deleted": "it was discarded meanwhile; see: petiole dead-letters list",
}


@dataclass(frozen=True, slots=True)
class Progress:
    """Outcomes of replays so far; `deleted` counts letters that were deleted meanwhile."""

    resolved: int = 0
    failed_again: int = 0
    replaying: int = 0
    deleted: int = 0


@dataclass(slots=True)
class DeadLetterReplay:
    """Result of a replay: the letters sent, those refused and why, and how many were skipped.

    `stopped` is the reason for skipping, from the canary. `progress` is set if outcomes were waited for.
    """

    id: str
    sent: list[str] = field(default_factory=list)
    refused: list[CannotReplay] = field(default_factory=list)
    skipped: int = 0
    stopped: str | None = None
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class DeadLetterReplayPlan:
    """How many letters of each subscription a replay would send now, and which it would refuse."""

    by_subscription: Counter[str]
    refused: tuple[CannotReplay, ...]


@checks_arguments(
    letters=QUERY,
    rate_hz=Annotated[float, Field(gt=0)] | None,
    canary=Annotated[int, Field(ge=0)],
    wait=bool,
    timeout=Annotated[Duration, Field(ge=timedelta(0))],
    operator=Text | None,
)
def replay(
    letters: DeadLetterQuery,
    *,
    rate_hz: float | None = None,
    canary: int = 0,
    wait: bool = False,
    timeout: timedelta | float = timedelta(seconds=60),
    operator: str | None = None,
    on_sent: Callable[[int, int], object] = lambda _, __: None,
    bus: BusRuntime | None = None,
) -> DeadLetterReplay:
    """Deliver dead letters again, oldest first, at most `rate_hz` in a second.

    Safe to repeat and to call concurrently: each letter is sent by one caller.

    Args:
        letters: Which letters to replay.
        rate_hz: Letters per second at most; None: as fast as possible.
        canary: Number of letters to send first. The rest is skipped unless all of them are handled within `timeout`.
        wait: Return when all outcomes are known, or after `timeout`.
        timeout: For `canary` and `wait`.
        operator: Who is named in audit events; the current user by default.
        on_sent: Called after each batch with its size and the total.
        bus: The bus; the current one by default.

    Raises: UsageError (unknown_dead_letter), BrokerUnavailable.
    """
    bus = current_bus(bus)
    bus.require_broker()
    timeout_s = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    with bus.state_store_access(f"replaying dead letters ({letters})"):
        ids = [record.letter.id for record in find_dead_letters(letters, bus=bus)]
        if not ids:
            return DeadLetterReplay(id="")
        operator = operator or current_operator()
        request = _build_requested_event(letters, ids, operator, rate_hz, canary)
        publish_audit_events(bus, [request])
        run = _ReplayRun(bus, request, operator, rate_hz, on_sent)
        return run.all(ids, canary=canary, timeout_s=timeout_s, wait=wait)


@checks_arguments(letters=QUERY)
def plan(letters: DeadLetterQuery, *, bus: BusRuntime | None = None) -> DeadLetterReplayPlan:
    """Return what a replay would do, without doing it. Raises as `replay`."""
    bus = current_bus(bus)
    with bus.state_store_access("reading dead letters"):
        validator, counts, refused = _ReplayValidator(bus), Counter[str](), []
        for record in find_dead_letters(letters, bus=bus):
            try:
                validator.build_replay(record)
                counts[record.letter.subscription] += 1
            except CannotReplay as refusal:
                refused.append(refusal)
        return DeadLetterReplayPlan(counts, tuple(refused))


@checks_arguments(ids=_IDS)
def read_progress(ids: Sequence[str], *, bus: BusRuntime | None = None) -> Progress:
    """Count the outcomes of replayed letters so far."""
    bus = current_bus(bus)
    with bus.state_store_access("reading dead letters"):
        states = Counter(bus.stores.dead_letters.states(ids).values())
    done = states["resolved"], states["failed_again"]
    return Progress(*done, replaying=len(ids) - sum(done) - states[None], deleted=states[None])


@checks_arguments(ids=_IDS, timeout_s=float)
def wait_for_outcomes(ids: Sequence[str], timeout_s: float, *, bus: BusRuntime | None = None) -> Progress:
    """Wait up to `timeout_s` until the outcome of every replay is known; the rest counts as replaying."""
    bus = current_bus(bus)
    deadline, pause_s = time.monotonic() + timeout_s, _MIN_POLL_INTERVAL_S
    pending = list(ids)
    while True:
        with bus.state_store_access("reading dead letters"):
            states = bus.stores.dead_letters.states(pending)
        pending = [letter_id for letter_id, state in states.items() if state == "replaying"]
        if not pending or time.monotonic() >= deadline:
            return read_progress(ids, bus=bus)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _MAX_POLL_INTERVAL_S)


class _ReplayValidator:
    """Decides which letters can be replayed, by the current subscriptions."""

    def __init__(self, bus: BusRuntime) -> None:
        self._bus = bus
        self._is_atomic = bus.publishes_atomically
        _, subscriptions = bus.stores.directory.read()
        self._known = {subscription.name for subscription in subscriptions} | {PUBLISH_TASK}

    def build_replay(self, record: DeadLetterRecord) -> LetterReplay:
        """Build the next replay of a letter. Raises CannotReplay."""
        letter = record.letter
        # A queued delivery is the replay itself; only a message that was sent in a second step may be missing.
        is_resend = record.state == "replaying" and not self._is_atomic and _is_stale(record, self._bus.now())
        if record.state not in ("pending", "failed_again") and not is_resend:
            raise CannotReplay(letter.id, _REFUSAL_REASONS[record.state])
        if letter.raw is None and letter.subscription not in self._known:
            advice = "start a worker that has it, discard the letter, or edit it for another: edit ID --to SUBSCRIPTION"
            raise CannotReplay(letter.id, f"there is no subscription {letter.subscription!r} any more; {advice}")
        return build_replay(letter, record.replays if is_resend else record.replays + 1)


class _ReplayRun:
    """One call of `replay`."""

    def __init__(
        self,
        bus: BusRuntime,
        request: DeadLetterReplayRequestedEvent,
        operator: str,
        rate_hz: float | None,
        on_sent: Callable[[int, int], object],
    ) -> None:
        self._bus = bus
        self._request = request
        self._operator = operator
        self._rate_hz = rate_hz
        self._on_sent = on_sent
        self._validator = _ReplayValidator(bus)
        self._done = DeadLetterReplay(request.event_id)

    def all(self, ids: Sequence[str], *, canary: int, timeout_s: float, wait: bool) -> DeadLetterReplay:
        """Send the canary, wait for its outcomes, and send the rest."""
        done, rest = self._done, list(ids)
        while rest and len(done.sent) < canary:
            # A refused letter does not count as a canary: another one takes its place.
            batch = rest[: canary - len(done.sent)]
            del rest[: len(batch)]
            self._send_at_rate(batch)
        if canary and rest:
            done.stopped = _find_canary_failure(wait_for_outcomes(done.sent, timeout_s, bus=self._bus), timeout_s)
        if done.stopped:
            done.skipped = len(rest)
        else:
            self._send_at_rate(rest)
        if wait or canary:
            done.progress = wait_for_outcomes(done.sent, timeout_s if wait else 0, bus=self._bus)
        return done

    def _send_at_rate(self, ids: Sequence[str]) -> None:
        """Send letters at the requested rate."""
        size = (
            REPLAY_BATCH_SIZE
            if self._rate_hz is None
            else max(1, min(REPLAY_BATCH_SIZE, int(self._rate_hz / _POLLS_PER_S)))
        )
        began = time.monotonic()
        for start in range(0, len(ids), size):
            if self._rate_hz is not None:
                time.sleep(max(0.0, began + start / self._rate_hz - time.monotonic()))
            batch = ids[start : start + size]
            self._send_batch(batch)
            self._on_sent(len(batch), self._request.content.letters)

    def _send_batch(self, ids: Sequence[str]) -> None:
        store, replays = self._bus.stores.dead_letters, []
        records = {record.letter.id: record for record in store.read(ids)}
        self._done.refused += [CannotReplay(id_, _REFUSAL_REASONS["deleted"]) for id_ in ids if id_ not in records]
        for record in records.values():
            try:
                replays.append(self._validator.build_replay(record))
            except CannotReplay as refusal:
                self._done.refused.append(refusal)
        with self._open_producer() as producer:
            started = self._start(replays)
            if producer is not None:
                for replay in started:
                    send_replay(self._bus, replay, producer)
        self._done.sent.extend(replay.letter.id for replay in started)
        publish_audit_events(self._bus, [self._build_replayed_event(replay) for replay in started])

    def _open_producer(self) -> AbstractContextManager[ConfirmingProducer | None]:
        # Opened before any replay starts: without a broker nothing is started.
        if self._bus.publishes_atomically:
            return nullcontext()
        return open_producer(self._bus, "replaying dead letters")

    def _start(self, replays: Sequence[LetterReplay]) -> list[LetterReplay]:
        starts = [build_replay_start(self._bus, replay) for replay in replays]
        answers = self._bus.stores.dead_letters.start_replays(starts, self._operator, RESEND_AFTER)
        for replay, answer in zip(replays, answers, strict=True):
            if answer != "started":
                self._done.refused.append(CannotReplay(replay.letter.id, _REFUSAL_REASONS[answer]))
        return [replay for replay, answer in zip(replays, answers, strict=True) if answer == "started"]

    def _build_replayed_event(self, replay: LetterReplay) -> DeadLetterReplayedEvent:
        content = ReplayedLetter(
            letter_id=replay.letter.id,
            operator=self._operator,
            subscription=replay.letter.subscription,
            number=replay.number,
            delivery_id=replay.delivery_id,
        )
        # The same id if a replay is started twice, so it is published once.
        event_id = emitted_event_id(replay.delivery_id, ReservedIndex.REPLAYED)
        return self._request.caused(DeadLetterReplayedEvent, event_id=event_id, content=content)


def _build_requested_event(
    letters: DeadLetterQuery, ids: Sequence[str], operator: str, rate_hz: float | None, canary: int
) -> DeadLetterReplayRequestedEvent:
    content = RequestedReplay(
        operator=operator, selection=str(letters), letters=len(ids), rate_hz=rate_hz, canary=canary
    )
    return DeadLetterReplayRequestedEvent(content=content)


def _find_canary_failure(canary: Progress, timeout_s: float) -> str | None:
    """Return why the canary forbids to continue; None if it succeeded."""
    if canary.failed_again:
        return (
            f"of {canary.failed_again + canary.resolved} canaries with an outcome, {canary.failed_again} failed again"
        )
    if canary.replaying:
        return f"{canary.replaying} of the canaries had no outcome within {timeout_s:g} s; does a worker run?"
    return None


def _is_stale(record: DeadLetterRecord, now: datetime) -> bool:
    return record.replayed_at is not None and now - record.replayed_at >= RESEND_AFTER
