"""Dead letters: deliveries that failed for good, each with its event, its error and its state.

    pending ──▶ replaying ──▶ resolved
       │          ▲    │
       │          │    ▼
       │        failed_again
       └───────────┴──▶ replaced          by the edited letter, which is pending

Promise: a dead letter stays until it is discarded or dropped by retention (tasks/dead_letters/retention.py). A failed
replay updates the same dead letter. Of any number of callers, one starts a replay.
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
from petiole.tasks.stores.scripts import Script, load_script

DeadLetterState = Literal["pending", "replaying", "resolved", "failed_again", "replaced"]
DEAD_LETTER_STATES: tuple[DeadLetterState, ...] = get_args(DeadLetterState)

LETTER_PAGE_SIZE = 500
"""Dead letters read in one round trip."""

MAX_PAGE_BYTES = 4_194_304
"""Bytes of dead letters read at once. A larger one, with an event of 8 MiB for example, is read alone."""

TimestampMs: TypeAlias = int
"""Milliseconds since 1970."""


@dataclass(frozen=True, slots=True)
class DeadLetterRecord:
    """A dead letter with its state and its replays."""

    letter: DeadLetter
    state: DeadLetterState
    replays: int = 0
    replayed_at: datetime | None = None
    replayed_by: str | None = None


@dataclass(frozen=True, slots=True)
class ReplayStart:
    """A replay to start, with its number and the queue entry that is queued in the same step, if any."""

    letter_id: str
    number: int
    queue_list: str = ""
    entry: str = ""
    message_group: str | None = None


class DeadLetters:
    """Dead letters, oldest first."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._all_keys = [keys.dead_letters, keys.dead_letter_times, keys.dead_letter_states, keys.dead_letter_replays]
        self._put = client.register_script(load_script("dead_letter") + load_script("put_dead_letter"))
        self._resolve = client.register_script(
            load_script("resolve_dead_letter") + load_script("resolve_one_dead_letter")
        )
        self._start = Script(client, "history", "deliveries", "start_replay")
        self._edit = client.register_script(load_script("replace_dead_letter"))
        self._remove = client.register_script(load_script("remove_dead_letters"))
        self._import = client.register_script(load_script("import_dead_letter"))

    def put(self, letter: DeadLetter) -> None:
        """Store a dead letter as pending, or as failed_again if its id is known."""
        self._put(
            keys=self._all_keys[:3],
            args=[letter.id, letter.model_dump_json(), letter.dead_lettered_at_ms],
        )

    def resolve(self, letter_id: str, number: int | None = None) -> None:
        """Record that a replay was handled; with a number, only if that replay is the last and running."""
        self._resolve(keys=self._all_keys[2:], args=[letter_id, "" if number is None else number])

    def start_replays(self, starts: Sequence[ReplayStart], operator: str, resend_after: timedelta) -> list[str]:
        """Start replays, each in one step together with its message.

        Returns for each: started, deleted, replayed_meanwhile (another number is next), or the state that forbids it.
        """
        resend_ms = int(resend_after.total_seconds() * 1_000)
        with self._client.pipeline(transaction=False) as pipe:
            for start in starts:
                delivery = (start.queue_list, start.entry, start.message_group or "")
                arguments = (self._keys.prefix, start.letter_id, start.number, resend_ms, operator, *delivery)
                self._start.add_to(pipe, arguments)
            return [str(answer) for answer in pipe.execute()]

    def replace(self, letter_id: str, successor: DeadLetter) -> str:
        """Replace a pending or failed_again dead letter by its edited successor. Safe to repeat.

        Returns edited, deleted, or the state that forbids it.
        """
        return str(
            self._edit(
                keys=self._all_keys[:3],
                args=[letter_id, successor.id, successor.model_dump_json(), milliseconds(successor.at)],
            )
        )

    def remove(self, letters: Sequence[tuple[str, DeadLetterState, TimestampMs | None]]) -> list[bool]:
        """Delete dead letters that are still in the given state and, if a time is given, were dead-lettered then."""
        if not letters:
            return []
        args = [part for name, state, at in letters for part in (name, state, "" if at is None else at)]
        return [bool(answer) for answer in self._remove(keys=self._all_keys, args=args)]

    def import_letters(self, letters: Sequence[DeadLetterRecord]) -> list[bool]:
        """Store exported dead letters with their states; existing ones stay unchanged and return False."""
        with self._client.pipeline(transaction=False) as pipe:
            for record in letters:
                letter = record.letter
                self._import(
                    keys=self._all_keys,
                    args=[
                        letter.id,
                        letter.model_dump_json(),
                        milliseconds(letter.at),
                        record.state,
                        _encode_record(record),
                    ],
                    client=pipe,
                )
            return [bool(answer) for answer in pipe.execute()]

    def all(self) -> list[DeadLetter]:
        """Read every dead letter, oldest first."""
        return [record.letter for record in self.iterate()]

    def iterate(self, states: Sequence[DeadLetterState] = DEAD_LETTER_STATES) -> Iterator[DeadLetterRecord]:
        """Read dead letters in these states page by page, oldest first, as of the call."""
        for ids in _pages(self.ids()):
            found = self.states(ids)
            yield from self.read([id_ for id_ in ids if found[id_] in states])

    def ids(self) -> list[str]:
        """List the ids of all dead letters, oldest first."""
        names: Any = self._client.zrange(self._keys.dead_letter_times, 0, -1)
        return [str(name) for name in names]

    def states(self, ids: Sequence[str]) -> dict[str, DeadLetterState | None]:
        """Read the states of dead letters; None for ids that do not exist."""
        if not ids:
            return {}
        states: Any = self._client.hmget(self._keys.dead_letter_states, list(ids))
        return dict(zip(ids, states, strict=True))

    def read(self, ids: Sequence[str]) -> Iterator[DeadLetterRecord]:
        """Read dead letters in this order, without ids that do not exist."""
        for page in self._pages_by_size(ids):
            with self._client.pipeline(transaction=True) as pipe:
                for key in (self._keys.dead_letters, self._keys.dead_letter_states, self._keys.dead_letter_replays):
                    pipe.hmget(key, page)
                for text, state, replayed in zip(*pipe.execute(), strict=True):
                    if text is not None:
                        yield _build_record(DeadLetter.model_validate_json(text), state or "pending", replayed)

    def count(self) -> int:
        """Count all dead letters."""
        return int(self._client.zcard(self._keys.dead_letter_times))

    def count_by_state(self) -> Counter[DeadLetterState]:
        """Count dead letters by state."""
        counts: Counter[DeadLetterState] = Counter()
        for ids in _pages(self.ids()):
            counts.update(state or "pending" for state in self.states(ids).values())
        return counts

    def list_times(self, limit: int | None = None) -> list[tuple[str, TimestampMs]]:
        """List at most `limit` ids with the time of dead-lettering, oldest first."""
        last = -1 if limit is None else limit - 1
        found: Any = self._client.zrange(self._keys.dead_letter_times, 0, last, withscores=True)
        return [(str(name), int(score)) for name, score in found]

    def acquire_retention_lock(self, operator: str, timeout: timedelta) -> bool:
        """Acquire the lock for retention; returns False while another worker holds it."""
        return bool(self._client.set(self._keys.dead_letter_retention_lock, operator, nx=True, px=timeout))

    def release_retention_lock(self) -> None:
        """Release the lock for retention."""
        self._client.delete(self._keys.dead_letter_retention_lock)

    def is_alarm_due(self, alarm: str) -> bool:
        """Return whether an alarm was not raised within the last day."""
        return not self._client.exists(self._keys.dead_letter_alarm(alarm))

    def record_alarm(self, alarm: str) -> None:
        """Record that an alarm was raised."""
        self._client.set(self._keys.dead_letter_alarm(alarm), "raised", px=timedelta(days=1))

    def _pages_by_size(self, ids: Sequence[str]) -> Iterator[list[str]]:
        """Split ids into pages of at most MAX_PAGE_BYTES."""
        page: list[str] = []
        free_bytes = MAX_PAGE_BYTES
        for batch in _pages(ids):
            with self._client.pipeline(transaction=False) as pipe:
                for letter_id in batch:
                    pipe.hstrlen(self._keys.dead_letters, letter_id)
                sizes = pipe.execute()
            for letter_id, size in zip(batch, sizes, strict=True):
                if page and size > free_bytes:
                    yield page
                    page, free_bytes = [], MAX_PAGE_BYTES
                page.append(letter_id)
                free_bytes -= size
        if page:
            yield page


def milliseconds(moment: datetime) -> TimestampMs:
    """Convert a time to ms since 1970."""
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
