"""Replay of dead letters: each is delivered again, once, and its outcome is noted at the letter.

    begun       of all who ask, one begins the n-th replay of a letter; where the broker is the state store, the message
                goes out in the same step, elsewhere after it
    told        `dead_letters.letter.replayed` for each
    outcome     whoever delivers it notes it: resolved, or failed again (delivery.py)

With a canary some go first, and the rest only where all of those were handled. A replay that was begun and never sent,
because its sender died between the two, is begun again under the same number after RESEND_AFTER.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from petiole.events.catalog.dead_letters import (
    DeadLetterReplayedEvent,
    DeadLetterReplayRequestedEvent,
    ReplayedLetter,
    RequestedReplay,
)
from petiole.events.errors import CannotReplay
from petiole.events.ids import ReservedIndex, emitted_event_id
from petiole.tasks.broker.producer import ConfirmingProducer, open_producer
from petiole.tasks.broker.topology import PUBLISH_TASK
from petiole.tasks.dead_letters.audit import publish_audit_events
from petiole.tasks.dead_letters.replay_messages import LetterReplay, build_replay, build_replay_start, send_replay
from petiole.tasks.dead_letters.selection import DeadLetterQuery, find_dead_letters
from petiole.tasks.handling.current import current_bus
from petiole.tasks.operations.operator import current_operator
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.dead_letters import DeadLetterRecord

RESEND_AFTER = timedelta(minutes=10)
"""When a replay without an outcome may be begun once more. It may still wait in its queue: it is handled once then."""

REPLAY_BATCH_SIZE = 100
"""Letters that are begun in one round trip."""

_POLLS_PER_S = 20
_MIN_POLL_INTERVAL_S, _MAX_POLL_INTERVAL_S = 0.02, 0.5

_REFUSAL_REASONS = {
    "replaying": "it is being replayed; wait for its outcome: petiole dead-letters show ID",
    "replayed_meanwhile": "somebody else replayed it meanwhile; look at it: petiole dead-letters show ID",
    "resolved": "a replay of it was handled; there is nothing left to do",
    "replaced": "it was edited, and another letter stands for it; replay that one",
    "deleted": "it was discarded meanwhile; see: petiole dead-letters list",
}


@dataclass(frozen=True, slots=True)
class Progress:
    """What became of replays so far; gone are letters that were removed meanwhile."""

    resolved: int = 0
    failed_again: int = 0
    replaying: int = 0
    deleted: int = 0


@dataclass(slots=True)
class DeadLetterReplay:
    """What a replay did: which letters it sent, which it could not send and why, and how many it left untouched.

    `stopped` tells why it left those: what its canary found. `tally` is there where outcomes were waited for.
    """

    id: str
    sent: list[str] = field(default_factory=list)
    refused: list[CannotReplay] = field(default_factory=list)
    skipped: int = 0
    stopped: str | None = None
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class DeadLetterReplayPlan:
    """What a replay would do now: how many letters of each subscription it would send, and which it would refuse."""

    by_subscription: Counter[str]
    refused: tuple[CannotReplay, ...]


def replay(
    letters: DeadLetterQuery,
    *,
    rate_hz: float | None = None,
    canary: int = 0,
    wait: bool = False,
    timeout: timedelta = timedelta(seconds=60),
    operator: str | None = None,
    on_sent: Callable[[int, int], object] = lambda _, __: None,
    bus: BusRuntime | None = None,
) -> DeadLetterReplay:
    """Deliver dead letters again, oldest first, at most `rate_hz` in a second.

    `canary`: so many go first; unless all are handled within `timeout`, the rest stays untouched. `wait`: return when
    every outcome is known, or after `timeout`. Safe to repeat, and for several at once: each letter is sent by one.
    `on_sent` is called with how many more were dealt with, and how many there are.
    Raises: UsageError (unknown_dead_letter), BrokerUnavailable.
    """
    bus = current_bus(bus)
    bus.require_broker()
    with bus.state_store_access(f"replaying dead letters ({letters})"):
        ids = [kept.letter.id for kept in find_dead_letters(letters, bus=bus)]
        if not ids:
            return DeadLetterReplay(id="")
        who = operator or current_operator()
        request = _build_requested_event(letters, ids, who, rate_hz, canary)
        publish_audit_events(bus, [request])
        run = _ReplayRun(bus, request, who, rate_hz, on_sent)
        return run.all(ids, canary=canary, timeout_s=timeout.total_seconds(), wait=wait)


def plan(letters: DeadLetterQuery, *, bus: BusRuntime | None = None) -> DeadLetterReplayPlan:
    """Tell what a replay would do, and do nothing. Raises as `replay`."""
    bus = current_bus(bus)
    with bus.state_store_access("reading dead letters"):
        check, counts, refused = _ReplayValidator(bus), Counter[str](), []
        for kept in find_dead_letters(letters, bus=bus):
            try:
                check.build_replay(kept)
                counts[kept.letter.subscription] += 1
            except CannotReplay as refusal:
                refused.append(refusal)
        return DeadLetterReplayPlan(counts, tuple(refused))


def read_progress(ids: Sequence[str], *, bus: BusRuntime | None = None) -> Progress:
    """Tell what became of replayed letters so far."""
    bus = current_bus(bus)
    found = Counter(bus.stores.dead_letters.states(ids).values())
    done = found["resolved"], found["failed_again"]
    return Progress(*done, replaying=len(ids) - sum(done) - found[None], deleted=found[None])


def wait_for_outcomes(ids: Sequence[str], timeout_s: float, *, bus: BusRuntime | None = None) -> Progress:
    """Wait until the outcome of every replay is known; seconds, after which the rest is told as replaying."""
    bus = current_bus(bus)
    deadline, pause_s = time.monotonic() + timeout_s, _MIN_POLL_INTERVAL_S
    waited_for = list(ids)
    while True:
        states = bus.stores.dead_letters.states(waited_for)
        waited_for = [each for each, state in states.items() if state == "replaying"]
        if not waited_for or time.monotonic() >= deadline:
            return read_progress(ids, bus=bus)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _MAX_POLL_INTERVAL_S)


class _ReplayValidator:
    """Tells which letters can be replayed as things are."""

    def __init__(self, bus: BusRuntime) -> None:
        _, subscriptions = bus.stores.directory.read()
        self._known = {each.name for each in subscriptions} | {PUBLISH_TASK}

    def build_replay(self, record: DeadLetterRecord) -> LetterReplay:
        """Make the replay that comes next. Raises CannotReplay."""
        letter = record.letter
        is_repair = record.state == "replaying" and _is_stale(record)
        if record.state not in ("pending", "failed_again") and not is_repair:
            raise CannotReplay(letter.id, _REFUSAL_REASONS[record.state])
        if letter.raw is None and letter.subscription not in self._known:
            advice = "start a worker that has it, discard the letter, or edit it for another: edit ID --to SUBSCRIPTION"
            raise CannotReplay(letter.id, f"there is no subscription {letter.subscription!r} any more; {advice}")
        return build_replay(letter, record.replays if is_repair else record.replays + 1)


class _ReplayRun:
    """One replay under way."""

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
        self._who = operator
        self._rate_hz = rate_hz
        self._on_sent = on_sent
        self._check = _ReplayValidator(bus)
        self._done = DeadLetterReplay(request.event_id)

    def all(self, ids: Sequence[str], *, canary: int, timeout_s: float, wait: bool) -> DeadLetterReplay:
        """Send the canary, look what becomes of it, and send the rest."""
        done, rest = self._done, list(ids)
        while rest and len(done.sent) < canary:
            # Those that are refused are no canaries: others take their place.
            some = rest[: canary - len(done.sent)]
            del rest[: len(some)]
            self._send_at_rate(some)
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
        """Send letters at the rate that was asked for."""
        size = (
            REPLAY_BATCH_SIZE
            if self._rate_hz is None
            else max(1, min(REPLAY_BATCH_SIZE, int(self._rate_hz / _POLLS_PER_S)))
        )
        began = time.monotonic()
        for start in range(0, len(ids), size):
            if self._rate_hz is not None:
                time.sleep(max(0.0, began + start / self._rate_hz - time.monotonic()))
            chunk = ids[start : start + size]
            self._send_batch(chunk)
            self._on_sent(len(chunk), self._request.content.letters)

    def _send_batch(self, ids: Sequence[str]) -> None:
        store, replays = self._bus.stores.dead_letters, []
        found = {kept.letter.id: kept for kept in store.read(ids)}
        self._done.refused += [CannotReplay(each, _REFUSAL_REASONS["deleted"]) for each in ids if each not in found]
        for kept in found.values():
            try:
                replays.append(self._check.build_replay(kept))
            except CannotReplay as refusal:
                self._done.refused.append(refusal)
        with self._open_producer() as outlet:
            begun = self._start(replays)
            for each_begun in begun:
                if outlet is not None:
                    send_replay(self._bus, each_begun, outlet)
        self._done.sent.extend(each.letter.id for each in begun)
        publish_audit_events(self._bus, [self._build_replayed_event(each) for each in begun])

    def _open_producer(self) -> AbstractContextManager[ConfirmingProducer | None]:
        # Connected before anything begins: without a broker, nothing happened.
        if self._bus.publishes_atomically:
            return nullcontext()
        return open_producer(self._bus, "replaying dead letters")

    def _start(self, replays: Sequence[LetterReplay]) -> list[LetterReplay]:
        starts = [build_replay_start(self._bus, each) for each in replays]
        answers = self._bus.stores.dead_letters.start_replays(starts, self._who, RESEND_AFTER)
        for each, answer in zip(replays, answers, strict=True):
            if answer != "started":
                self._done.refused.append(CannotReplay(each.letter.id, _REFUSAL_REASONS[answer]))
        return [each for each, answer in zip(replays, answers, strict=True) if answer == "started"]

    def _build_replayed_event(self, replay: LetterReplay) -> DeadLetterReplayedEvent:
        content = ReplayedLetter(
            letter_id=replay.letter.id,
            operator=self._who,
            subscription=replay.letter.subscription,
            number=replay.number,
            delivery_id=replay.delivery_id,
        )
        # The same where it is told again, for a replay that was begun twice.
        told = emitted_event_id(replay.delivery_id, ReservedIndex.REPLAYED)
        return self._request.caused(DeadLetterReplayedEvent, event_id=told, content=content)


def _build_requested_event(
    letters: DeadLetterQuery, ids: Sequence[str], operator: str, rate_hz: float | None, canary: int
) -> DeadLetterReplayRequestedEvent:
    content = RequestedReplay(
        operator=operator, selection=str(letters), letters=len(ids), rate_hz=rate_hz, canary=canary
    )
    return DeadLetterReplayRequestedEvent(content=content)


def _find_canary_failure(canary: Progress, timeout_s: float) -> str | None:
    """Tell what speaks against going on after the canary; None where nothing does."""
    if canary.failed_again:
        return (
            f"of {canary.failed_again + canary.resolved} canaries with an outcome, {canary.failed_again} failed again"
        )
    if canary.replaying:
        return f"{canary.replaying} of the canaries had no outcome within {timeout_s:g} s; does a worker run?"
    return None


def _is_stale(record: DeadLetterRecord) -> bool:
    return record.replayed_at is not None and datetime.now(UTC) - record.replayed_at >= RESEND_AFTER
