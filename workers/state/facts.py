"""Facts about users, each with all its stated values, by time.

Promise: a statement learned twice counts once, in any order of statements. The last 20 values of a fact and the newest
500 facts of an owner are kept. A forgotten statement is not learned again, such as by a replay.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import TypeAdapter
from redis import Redis
from redis.client import Pipeline

from petiole.events.catalog.memory import Fact
from petiole.workers.state.keys import StateKeys

FACT_RETENTION = timedelta(days=365)
MAX_VALUES_PER_FACT = 20
MAX_FACTS_PER_OWNER = 500

_Values = TypeAdapter(tuple[Fact, ...])


@dataclass(frozen=True, slots=True)
class LearnResult:
    """Values of a fact after a statement, oldest first, and the conflict that it causes."""

    values: tuple[Fact, ...]
    conflict: tuple[Fact, Fact] | None = None


class Facts:
    """Facts by owner: a user, or a stream without a known user."""

    def __init__(self, client: Redis, keys: StateKeys) -> None:
        self._client = client
        self._keys = keys

    def learn(self, owner: str, statement: Fact) -> tuple[Fact, Fact] | None:
        """Store a statement; returns the earlier and the later value if they contradict. Repeating returns the same."""
        name, removals = self._keys.facts(owner), self._keys.fact_removals(owner)

        def update(pipe: Pipeline) -> LearnResult:
            forgotten: Any = pipe.hmget(removals, [statement.key, ""])
            if any(at and statement.said_at.timestamp() <= float(at) for at in forgotten):
                pipe.multi()
                return LearnResult(())
            text: Any = pipe.hget(name, statement.key)
            learned = learn(_Values.validate_json(text) if text else (), statement)
            pipe.multi()
            pipe.hset(name, statement.key, _Values.dump_json(learned.values).decode())
            pipe.pexpire(name, FACT_RETENTION)
            return learned

        # Optimistic locking, retried: of two workers that learn at once, the second sees the other's value.
        learned: Any = self._client.transaction(
            update,  # type: ignore[arg-type]  # the annotation ignores value_from_callable
            name,
            removals,
            value_from_callable=True,
        )
        self._drop_oldest(name)
        conflict: tuple[Fact, Fact] | None = learned.conflict
        return conflict

    def read(self, owner: str) -> list[tuple[Fact, ...]]:
        """Read all facts of an owner, each as its values, oldest first; the last one is valid."""
        texts: Any = self._client.hgetall(self._keys.facts(owner))
        return sorted((_Values.validate_json(text) for text in texts.values()), key=lambda values: values[-1].said_at)

    def forget(self, owner: str, keys: Collection[str], until: datetime) -> int:
        """Delete facts of an owner, and refuse what was stated about them until then. Safe to repeat.

        The key "" refuses every statement until then. Returns how many facts there were.
        """
        if not keys:
            return 0
        removals = self._keys.fact_removals(owner)
        with self._client.pipeline(transaction=True) as pipe:
            pipe.hdel(self._keys.facts(owner), *keys)
            pipe.hset(removals, mapping=dict.fromkeys(keys, repr(until.timestamp())))
            pipe.pexpire(removals, FACT_RETENTION)
            count: Any = pipe.execute()[0]
        return int(count)

    def is_forgotten(self, owner: str, said_at: datetime) -> bool:
        """Return whether everything of the owner from this time was forgotten."""
        at: Any = self._client.hget(self._keys.fact_removals(owner), "")
        return at is not None and said_at.timestamp() <= float(at)

    def _drop_oldest(self, name: str) -> None:
        count: Any = self._client.hlen(name)
        if count > MAX_FACTS_PER_OWNER:
            texts: Any = self._client.hgetall(name)
            times = {key: _Values.validate_json(text)[-1].said_at for key, text in texts.items()}
            self._client.hdel(name, *sorted(times, key=times.__getitem__)[: count - MAX_FACTS_PER_OWNER])


def learn(values: Sequence[Fact], statement: Fact) -> LearnResult:
    """Insert a statement into the values of its fact by time. A value equal to a neighbour changes nothing.

    The conflict is with the value before it, or with the one after it if the statement is the oldest.
    """
    known = [place for place, value in enumerate(values) if value.source == statement.source]
    place = known[0] if known else sum(_sort_key(value) < _sort_key(statement) for value in values)
    before = values[place - 1] if place else None
    if known:
        return LearnResult(tuple(values), _find_conflict(before, statement))
    after = values[place] if place < len(values) else None
    if any(value and value.has_same_value(statement) for value in (before, after)):
        return LearnResult(tuple(values))
    if place == 0 and len(values) == MAX_VALUES_PER_FACT:
        return LearnResult(tuple(values))
    conflict = _find_conflict(before, statement) if before else _find_conflict(statement, after)
    return LearnResult((*values[:place], statement, *values[place:])[-MAX_VALUES_PER_FACT:], conflict)


def _find_conflict(earlier: Fact | None, later: Fact | None) -> tuple[Fact, Fact] | None:
    return (earlier, later) if earlier and later and later.contradicts(earlier) else None


def _sort_key(fact: Fact) -> tuple[float, str]:
    return fact.said_at.timestamp(), fact.source
