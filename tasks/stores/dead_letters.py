"""Dead letters: deliveries that were given up, each with its event and its reason, and what became of it since.

    pending ──▶ replaying ──▶ resolved
       │          ▲    │
       │          │    ▼
       │        failed_again
       └───────────┴──▶ replaced          by an edited letter, which is pending

Promise: what is put here stays until it is discarded, or dropped by retention (tasks/dead_letters/retention.py). One
that is put here again, because a replay of it failed, stands in its own place. Of any number of callers, one begins a
replay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias, get_args

from redis import Redis

from petiole.events.dead_letter import DeadLetter
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.scripts import load_script

DeadLetterState = Literal["pending", "replaying", "resolved", "failed_again", "replaced"]
DEAD_LETTER_STATES: tuple[DeadLetterState, ...] = get_args(DeadLetterState)

LETTER_PAGE_SIZE = 500
"""Letters whose states are read at once."""

MAX_PAGE_BYTES = 4_194_304
"""What is read of letters at once, unless a single one is larger: one with an event of 8 MiB is."""

TimestampMs: TypeAlias = int
"""Milliseconds since 1970."""


@dataclass(frozen=True, slots=True)
class DeadLetterRecord:
    """A letter as it is kept: its state, how often it was replayed, when last, and by whom."""

    letter: DeadLetter
    state: DeadLetterState
    replays: int = 0
    replayed_at: datetime | None = None
    replayed_by: str | None = None


@dataclass(frozen=True, slots=True)
class ReplayStart:
    """A replay to begin: its number, and the message that is put into a list of its queue in the same step, if any."""

    letter_id: str
    number: int
    delivery_id: str
    queue: str = ""
    queue_key: str = ""
    message: str = ""
    message_group: str | None = None


class DeadLetters:
    """Deliveries given up, oldest first."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._all_keys = [keys.dead_letters, keys.dead_letter_times, keys.dead_letter_states, keys.dead_letter_replays]
        self._put = client.register_script(load_script("dead_letter") + load_script("put_dead_letter"))
        self._resolve = client.register_script(
            load_script("resolve_dead_letter") + load_script("resolve_one_dead_letter")
        )
        self._start = client.register_script(load_script("start_replay"))
        self._edit = client.register_script(load_script("replace_dead_letter"))
        self._remove = client.register_script(load_script("remove_dead_letters"))
        self._import = client.register_script(load_script("import_dead_letter"))

    def put(self, letter: DeadLetter) -> None:
        """Keep a dead letter: as pending, or as failed again where it is known."""
        self._put(
            keys=self._all_keys[:3],
            args=[letter.id, letter.model_dump_json(), letter.dead_lettered_at_ms],
        )

    def resolve(self, letter_id: str, number: int | None = None) -> None:
        """Note that a replay of a letter was handled; with a number, only if that is its last, under way."""
        self._resolve(keys=self._all_keys[2:], args=[letter_id, "" if number is None else number])

    def start_replays(self, starts: Sequence[ReplayStart], operator: str, resend_after: timedelta) -> list[str]:
        """Begin replays, each in a step of its own; a message goes out in that step.

        Returns for each: started, gone, moved (another number is next), or the state that stands against it.
        """
        with self._client.pipeline(transaction=False) as pipe:
            for each in starts:
                self._start(
                    keys=[
                        self._keys.dead_letters,
                        self._keys.dead_letter_states,
                        self._keys.dead_letter_replays,
                        each.queue_key,
                        self._keys.message_group(each.message_group) if each.message_group else "",
                        self._keys.message_group_counts,
                    ],
                    args=[
                        each.letter_id,
                        each.number,
                        int(resend_after.total_seconds() * 1_000),
                        operator,
                        each.delivery_id,
                        each.queue,
                        each.message,
                    ],
                    client=pipe,
                )
            return [str(answer) for answer in pipe.execute()]

    def replace(self, letter_id: str, successor: DeadLetter) -> str:
        """Let another letter stand for one that is pending or failed again. Safe to repeat.

        Returns edited, gone, or the state that stands against it.
        """
        return str(
            self._edit(
                keys=self._all_keys[:3],
                args=[letter_id, successor.id, successor.model_dump_json(), milliseconds(successor.at)],
            )
        )

    def remove(self, letters: Sequence[tuple[str, DeadLetterState, TimestampMs | None]]) -> list[bool]:
        """Remove letters that are in these states still, and were last buried then where that is given."""
        if not letters:
            return []
        args = [part for name, state, at in letters for part in (name, state, "" if at is None else at)]
        return [bool(answer) for answer in self._remove(keys=self._all_keys, args=args)]

    def import_letters(self, letters: Sequence[DeadLetterRecord]) -> list[bool]:
        """Keep letters as they were kept elsewhere; those that are known stay as they are, and are told as False."""
        with self._client.pipeline(transaction=False) as pipe:
            for kept in letters:
                letter = kept.letter
                self._import(
                    keys=self._all_keys,
                    args=[
                        letter.id,
                        letter.model_dump_json(),
                        milliseconds(letter.at),
                        kept.state,
                        _encode_record(kept),
                    ],
                    client=pipe,
                )
            return [bool(answer) for answer in pipe.execute()]

    def all(self) -> list[DeadLetter]:
        """Read every dead letter, oldest first."""
        return [kept.letter for kept in self.iterate()]

    def iterate(self, states: Sequence[DeadLetterState] = DEAD_LETTER_STATES) -> Iterator[DeadLetterRecord]:
        """Read the letters that are in these states, oldest first, a few at a time; those that were there at first."""
        for ids in _pages(self.ids()):
            found = self.states(ids)
            yield from self.read([each for each in ids if found[each] in states])

    def ids(self) -> list[str]:
        """List the ids of all letters, oldest first."""
        names: Any = self._client.zrange(self._keys.dead_letter_times, 0, -1)
        return [str(name) for name in names]

    def states(self, ids: Sequence[str]) -> dict[str, DeadLetterState | None]:
        """Tell the states of letters; None for those that are not kept."""
        if not ids:
            return {}
        found: Any = self._client.hmget(self._keys.dead_letter_states, list(ids))
        return dict(zip(ids, found, strict=True))

    def read(self, ids: Sequence[str]) -> Iterator[DeadLetterRecord]:
        """Read letters, in that order; those that are not kept are left out."""
        for page in self._pages_by_size(ids):
            with self._client.pipeline(transaction=True) as pipe:
                for key in (self._keys.dead_letters, self._keys.dead_letter_states, self._keys.dead_letter_replays):
                    pipe.hmget(key, page)
                for text, state, replayed in zip(*pipe.execute(), strict=True):
                    if text is not None:
                        yield _build_record(DeadLetter.model_validate_json(text), state or "pending", replayed)

    def count(self) -> int:
        """Count all letters."""
        return int(self._client.zcard(self._keys.dead_letter_times))

    def count_by_state(self) -> Counter[DeadLetterState]:
        """Count the letters in each state."""
        counts: Counter[DeadLetterState] = Counter()
        for ids in _pages(self.ids()):
            counts.update(state or "pending" for state in self.states(ids).values())
        return counts

    def list_times(self, limit: int | None = None) -> list[tuple[str, TimestampMs]]:
        """List ids with when each was last buried, oldest first; at most so many."""
        last = -1 if limit is None else limit - 1
        found: Any = self._client.zrange(self._keys.dead_letter_times, 0, last, withscores=True)
        return [(str(name), int(score)) for name, score in found]

    def acquire_retention_lock(self, operator: str, timeout: timedelta) -> bool:
        """Tell one of those who ask that it is to look after retention, and the others that somebody does."""
        return bool(self._client.set(self._keys.dead_letter_retention_lock, operator, nx=True, px=timeout))

    def release_retention_lock(self) -> None:
        """Let the next one look after retention."""
        self._client.delete(self._keys.dead_letter_retention_lock)

    def is_alarm_due(self, alarm: str) -> bool:
        """Tell whether an alarm was not raised within the last day."""
        return not self._client.exists(self._keys.dead_letter_alarm(alarm))

    def record_alarm(self, alarm: str) -> None:
        """Note that an alarm was raised."""
        self._client.set(self._keys.dead_letter_alarm(alarm), "raised", px=timedelta(days=1))

    def _pages_by_size(self, ids: Sequence[str]) -> Iterator[list[str]]:
        """Divide letters into pages that fit into memory."""
        page: list[str] = []
        room = MAX_PAGE_BYTES
        for some in _pages(ids):
            with self._client.pipeline(transaction=False) as pipe:
                for each in some:
                    pipe.hstrlen(self._keys.dead_letters, each)
                sizes = pipe.execute()
            for each, size in zip(some, sizes, strict=True):
                if page and size > room:
                    yield page
                    page, room = [], MAX_PAGE_BYTES
                page.append(each)
                room -= size
        if page:
            yield page


def milliseconds(moment: datetime) -> TimestampMs:
    """Write a moment as the store keeps it."""
    return int(moment.astimezone(UTC).timestamp() * 1_000)


def _build_record(letter: DeadLetter, state: DeadLetterState, replayed: str | None) -> DeadLetterRecord:
    if replayed is None:
        return DeadLetterRecord(letter, state)
    number, at, who = replayed.split(" ", 2)
    return DeadLetterRecord(letter, state, int(number), datetime.fromtimestamp(int(at) / 1_000, UTC), who)


def _encode_record(record: DeadLetterRecord) -> str:
    if record.replayed_at is None:
        return ""
    return f"{record.replays} {milliseconds(record.replayed_at)} {record.replayed_by}"


def _pages(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), LETTER_PAGE_SIZE):
        yield ids[start : start + LETTER_PAGE_SIZE]
