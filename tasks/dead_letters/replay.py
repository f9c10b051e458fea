"""Replay of dead letters: each is delivered again, once, and its outcome is noted at the letter.

    begun       of all who ask, one begins the n-th replay of a letter; where the broker is the state store, the message
                goes out in the same step, elsewhere after it
    told        `dead_letters.letter.replayed` for each
    outcome     whoever delivers it notes it: resolved, or failed again (delivery.py)

With a canary some go first, and the rest only where all of those were handled. A replay that was begun and never sent,
because its sender died between the two, is begun again under the same number after AGAIN_AFTER.
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
from petiole.events.ids import Beside, emitted_event_id
from petiole.tasks.broker.producer import Outlet, sending
from petiole.tasks.broker.topology import PUBLISH_TASK
from petiole.tasks.dead_letters.audit import say
from petiole.tasks.dead_letters.replay_messages import Again, again, send, start_of
from petiole.tasks.dead_letters.selection import Letters, find
from petiole.tasks.handling.current import current_bus
from petiole.tasks.operations.operator import operator_here
from petiole.tasks.runtime import BusRuntime
from petiole.tasks.stores.dead_letters import Kept

AGAIN_AFTER = timedelta(minutes=10)
"""When a replay without an outcome may be begun once more. It may still wait in its queue: it is handled once then."""

AT_ONCE = 100
"""Letters that are begun in one round trip."""

_LOOKS_PER_S = 20
_FIRST_LOOK_S, _LAST_LOOK_S = 0.02, 0.5

_AGAINST = {
    "replaying": "it is being replayed; wait for its outcome: petiole dead-letters show ID",
    "moved": "somebody else replayed it meanwhile; look at it: petiole dead-letters show ID",
    "resolved": "a replay of it was handled; there is nothing left to do",
    "replaced": "it was edited, and another letter stands for it; replay that one",
    "gone": "it was discarded meanwhile; see: petiole dead-letters list",
}


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of replays so far; gone are letters that were removed meanwhile."""

    resolved: int = 0
    failed_again: int = 0
    replaying: int = 0
    gone: int = 0


@dataclass(slots=True)
class LettersReplay:
    """What a replay did: which letters it sent, which it could not send and why, and how many it left untouched.

    `stopped` tells why it left those: what its canary found. `tally` is there where outcomes were waited for.
    """

    id: str
    sent: list[str] = field(default_factory=list)
    refused: list[CannotReplay] = field(default_factory=list)
    untouched: int = 0
    stopped: str | None = None
    tally: Tally | None = None


@dataclass(frozen=True, slots=True)
class LettersPlan:
    """What a replay would do now: how many letters of each subscription it would send, and which it would refuse."""

    by_subscription: Counter[str]
    refused: tuple[CannotReplay, ...]


def replay(
    letters: Letters,
    *,
    rate_hz: float | None = None,
    canary: int = 0,
    wait: bool = False,
    timeout: timedelta = timedelta(seconds=60),
    operator: str | None = None,
    on_sent: Callable[[int, int], object] = lambda _, __: None,
    bus: BusRuntime | None = None,
) -> LettersReplay:
    """Deliver dead letters again, oldest first, at most `rate_hz` in a second.

    `canary`: so many go first; unless all are handled within `timeout`, the rest stays untouched. `wait`: return when
    every outcome is known, or after `timeout`. Safe to repeat, and for several at once: each letter is sent by one.
    `on_sent` is called with how many more were dealt with, and how many there are.
    Raises: UsageError (unknown_dead_letter), BrokerUnavailable.
    """
    bus = current_bus(bus)
    bus.require_broker()
    with bus.state_store_access(f"replaying dead letters ({letters})"):
        ids = [kept.letter.id for kept in find(letters, bus=bus)]
        if not ids:
            return LettersReplay(id="")
        who = operator or operator_here()
        request = _requested(letters, ids, who, rate_hz, canary)
        say(bus, [request])
        run = _Run(bus, request, who, rate_hz, on_sent)
        return run.all(ids, canary=canary, timeout_s=timeout.total_seconds(), wait=wait)


def plan(letters: Letters, *, bus: BusRuntime | None = None) -> LettersPlan:
    """Tell what a replay would do, and do nothing. Raises as `replay`."""
    bus = current_bus(bus)
    with bus.state_store_access("reading dead letters"):
        check, counts, refused = _Check(bus), Counter[str](), []
        for kept in find(letters, bus=bus):
            try:
                check.replay_of(kept)
                counts[kept.letter.subscription] += 1
            except CannotReplay as refusal:
                refused.append(refusal)
        return LettersPlan(counts, tuple(refused))


def tally(ids: Sequence[str], *, bus: BusRuntime | None = None) -> Tally:
    """Tell what became of replayed letters so far."""
    bus = current_bus(bus)
    found = Counter(bus.stores.dead_letters.states(ids).values())
    done = found["resolved"], found["failed_again"]
    return Tally(*done, replaying=len(ids) - sum(done) - found[None], gone=found[None])


def wait_for(ids: Sequence[str], timeout_s: float, *, bus: BusRuntime | None = None) -> Tally:
    """Wait until the outcome of every replay is known; seconds, after which the rest is told as replaying."""
    bus = current_bus(bus)
    deadline, pause_s = time.monotonic() + timeout_s, _FIRST_LOOK_S
    waited_for = list(ids)
    while True:
        states = bus.stores.dead_letters.states(waited_for)
        waited_for = [each for each, state in states.items() if state == "replaying"]
        if not waited_for or time.monotonic() >= deadline:
            return tally(ids, bus=bus)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LAST_LOOK_S)


class _Check:
    """Tells which letters can be replayed as things are."""

    def __init__(self, bus: BusRuntime) -> None:
        _, subscriptions = bus.stores.directory.read()
        self._known = {each.name for each in subscriptions} | {PUBLISH_TASK}

    def replay_of(self, kept: Kept) -> Again:
        """Make the replay that comes next. Raises CannotReplay."""
        letter = kept.letter
        is_repair = kept.state == "replaying" and _began_long_ago(kept)
        if kept.state not in ("pending", "failed_again") and not is_repair:
            raise CannotReplay(letter.id, _AGAINST[kept.state])
        if letter.raw is None and letter.subscription not in self._known:
            advice = "start a worker that has it, discard the letter, or edit it for another: edit ID --to SUBSCRIPTION"
            raise CannotReplay(letter.id, f"there is no subscription {letter.subscription!r} any more; {advice}")
        return again(letter, kept.replays if is_repair else kept.replays + 1)


class _Run:
    """One replay under way."""

    def __init__(
        self,
        bus: BusRuntime,
        request: DeadLetterReplayRequestedEvent,
        who: str,
        rate_hz: float | None,
        on_sent: Callable[[int, int], object],
    ) -> None:
        self._bus = bus
        self._request = request
        self._who = who
        self._rate_hz = rate_hz
        self._on_sent = on_sent
        self._check = _Check(bus)
        self._done = LettersReplay(request.event_id)

    def all(self, ids: Sequence[str], *, canary: int, timeout_s: float, wait: bool) -> LettersReplay:
        """Send the canary, look what becomes of it, and send the rest."""
        done, rest = self._done, list(ids)
        while rest and len(done.sent) < canary:
            # Those that are refused are no canaries: others take their place.
            some = rest[: canary - len(done.sent)]
            del rest[: len(some)]
            self._some(some)
        if canary and rest:
            done.stopped = _verdict_on(wait_for(done.sent, timeout_s, bus=self._bus), timeout_s)
        if done.stopped:
            done.untouched = len(rest)
        else:
            self._some(rest)
        if wait or canary:
            done.tally = wait_for(done.sent, timeout_s if wait else 0, bus=self._bus)
        return done

    def _some(self, ids: Sequence[str]) -> None:
        """Send letters at the rate that was asked for."""
        size = AT_ONCE if self._rate_hz is None else max(1, min(AT_ONCE, int(self._rate_hz / _LOOKS_PER_S)))
        began = time.monotonic()
        for start in range(0, len(ids), size):
            if self._rate_hz is not None:
                time.sleep(max(0.0, began + start / self._rate_hz - time.monotonic()))
            chunk = ids[start : start + size]
            self._chunk(chunk)
            self._on_sent(len(chunk), self._request.content.letters)

    def _chunk(self, ids: Sequence[str]) -> None:
        store, replays = self._bus.stores.dead_letters, []
        found = {kept.letter.id: kept for kept in store.read(ids)}
        self._done.refused += [CannotReplay(each, _AGAINST["gone"]) for each in ids if each not in found]
        for kept in found.values():
            try:
                replays.append(self._check.replay_of(kept))
            except CannotReplay as refusal:
                self._done.refused.append(refusal)
        with self._outlet() as outlet:
            begun = self._begun(replays)
            for each_begun in begun:
                if outlet is not None:
                    send(self._bus, each_begun, outlet)
        self._done.sent.extend(each.letter.id for each in begun)
        say(self._bus, [self._told(each) for each in begun])

    def _outlet(self) -> AbstractContextManager[Outlet | None]:
        # Connected before anything begins: without a broker, nothing happened.
        if self._bus.publishes_in_one_step:
            return nullcontext()
        return sending(self._bus, "replaying dead letters")

    def _begun(self, replays: Sequence[Again]) -> list[Again]:
        starts = [start_of(self._bus, each) for each in replays]
        answers = self._bus.stores.dead_letters.start(starts, self._who, AGAIN_AFTER)
        for each, answer in zip(replays, answers, strict=True):
            if answer != "started":
                self._done.refused.append(CannotReplay(each.letter.id, _AGAINST[answer]))
        return [each for each, answer in zip(replays, answers, strict=True) if answer == "started"]

    def _told(self, replay: Again) -> DeadLetterReplayedEvent:
        content = ReplayedLetter(
            letter_id=replay.letter.id,
            operator=self._who,
            subscription=replay.letter.subscription,
            number=replay.number,
            delivery_id=replay.delivery_id,
        )
        # The same where it is told again, for a replay that was begun twice.
        told = emitted_event_id(replay.delivery_id, Beside.REPLAYED)
        return self._request.caused(DeadLetterReplayedEvent, event_id=told, content=content)


def _requested(
    letters: Letters, ids: Sequence[str], who: str, rate_hz: float | None, canary: int
) -> DeadLetterReplayRequestedEvent:
    content = RequestedReplay(operator=who, selection=str(letters), letters=len(ids), rate_hz=rate_hz, canary=canary)
    return DeadLetterReplayRequestedEvent(content=content)


def _verdict_on(canary: Tally, timeout_s: float) -> str | None:
    """Tell what speaks against going on after the canary; None where nothing does."""
    if canary.failed_again:
        return (
            f"of {canary.failed_again + canary.resolved} canaries with an outcome, {canary.failed_again} failed again"
        )
    if canary.replaying:
        return f"{canary.replaying} of the canaries had no outcome within {timeout_s:g} s; does a worker run?"
    return None


def _began_long_ago(kept: Kept) -> bool:
    return kept.replayed_at is not None and datetime.now(UTC) - kept.replayed_at >= AGAIN_AFTER
