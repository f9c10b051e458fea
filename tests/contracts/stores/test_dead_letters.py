"""Dead letters: kept in order, replayed by one at a time, and settled by what came of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from petiole.events.dead_letter import DeadLetter, FailedAttempt
from petiole.tasks.stores import Stores
from petiole.tasks.stores.dead_letters import DeadLetterRecord, ReplayStart
from petiole.tasks.stores.keys import Keys

KEYS = Keys("petiole")


def a_letter(number: int = 0, **fields: object) -> DeadLetter:
    return DeadLetter.model_validate(
        {
            "id": str(number),
            "delivery_id": str(number),
            "subscription": "memory.hear",
            "queue": "memory",
            "cause": "failed",
            "error_type": "RuntimeError",
            "error": "no",
            "traceback": "…",
            "fingerprint": "0",
            "attempts": (FailedAttempt(at=datetime.now(UTC), worker="a@b", error_type="RuntimeError", error="no"),),
            "at": datetime.now(UTC) + timedelta(milliseconds=number),
            "document": {"event_type": "input.message.received", "odd": [None, 1.5, "ü"]},
        }
        | fields
    )


def a_start(number: int = 1, **fields: Any) -> ReplayStart:
    return ReplayStart(number=number, **({"letter_id": "0"} | fields))


AN_HOUR = timedelta(hours=1)


def start(stores: Stores, replay: ReplayStart, *, again_after: timedelta = AN_HOUR) -> str:
    (answer,) = stores.dead_letters.start_replays([replay], "ada @ home", again_after)
    return answer


def state_of(stores: Stores, letter_id: str = "0") -> str | None:
    return stores.dead_letters.states([letter_id])[letter_id]


def test_dead_letters_stay_in_their_order(stores):
    letters = [a_letter(number) for number in range(3)]

    for letter in letters:
        stores.dead_letters.put(letter)

    assert stores.dead_letters.all() == letters


def test_of_many_that_replay_a_letter_one_begins(stores):
    stores.dead_letters.put(a_letter())

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: start(stores, a_start()), range(20)))

    assert sorted(answers) == ["replaying"] * 19 + ["started"]
    (kept,) = stores.dead_letters.iterate()
    assert (kept.state, kept.replays, kept.replayed_by) == ("replaying", 1, "ada @ home")
    assert abs(kept.replayed_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_replay_begins_from_where_the_last_one_ended(stores):
    assert start(stores, a_start()) == "deleted"
    stores.dead_letters.put(a_letter())
    assert start(stores, a_start(2)) == "replayed_meanwhile"
    assert start(stores, a_start(1)) == "started"
    stores.dead_letters.put(a_letter())
    assert state_of(stores) == "failed_again"
    assert start(stores, a_start(1)) == "replayed_meanwhile"
    assert start(stores, a_start(2)) == "started"
    stores.dead_letters.resolve("0", 1)
    assert state_of(stores) == "replaying", "that was the one before"
    stores.dead_letters.resolve("0", 2)

    assert state_of(stores) == "resolved"
    assert start(stores, a_start(3)) == "resolved"


def test_a_replay_without_an_outcome_is_begun_again_under_its_number_after_a_while(stores):
    stores.dead_letters.put(a_letter())
    start(stores, a_start(1))

    assert start(stores, a_start(1)) == "replaying"
    assert start(stores, a_start(2), again_after=timedelta(0)) == "replayed_meanwhile"
    assert start(stores, a_start(1), again_after=timedelta(0)) == "started"


def test_what_failed_again_is_not_resolved_by_a_late_copy_and_what_is_unknown_is_not_kept(stores):
    stores.dead_letters.put(a_letter())
    start(stores, a_start(1))
    stores.dead_letters.put(a_letter())

    stores.dead_letters.resolve("0", 1)
    stores.dead_letters.resolve("unknown")

    assert state_of(stores) == "failed_again"
    assert stores.dead_letters.ids() == ["0"]


DELIVERY = {"queue_list": KEYS.queue("q") + ":3", "entry": "\n\n\n\n…"}


def test_the_delivery_of_a_replay_is_queued_with_it_or_not_at_all(stores, client):
    for number in range(2):
        stores.dead_letters.put(a_letter(number))

    assert start(stores, a_start(1, **DELIVERY)) == "started"
    assert start(stores, a_start(1, **DELIVERY)) == "replaying"
    client.set(KEYS.queue("w") + ":3", "not a list")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        start(stores, a_start(1, letter_id="1", queue_list=KEYS.queue("w") + ":3", entry="…"))

    assert client.lrange(DELIVERY["queue_list"], 0, -1) == [DELIVERY["entry"]]
    assert client.exists(KEYS.queue("q") + ":wakeup"), "it wakes who waits"
    assert state_of(stores, "1") == "pending"


def test_a_replay_whose_delivery_is_queued_is_not_started_again(stores):
    stores.dead_letters.put(a_letter())

    answers = [start(stores, a_start(1, **DELIVERY), again_after=timedelta(0)) for _ in range(2)]

    assert answers == ["started", "replaying"]


@pytest.mark.parametrize("is_busy", [False, True])
def test_an_ordered_replay_waits_for_its_turn(stores, client, is_busy):
    stores.dead_letters.put(a_letter())
    if is_busy:
        client.sadd(KEYS.active_message_groups, "m")

    assert start(stores, a_start(1, **DELIVERY, message_group="m")) == "started"

    assert client.llen(DELIVERY["queue_list"]) == (not is_busy)
    assert client.llen(KEYS.message_group("m")) == int(client.hget(KEYS.message_group_counts, "q") or 0) == is_busy
    assert client.smembers(KEYS.active_message_groups) == {"m"}


def test_an_edited_letter_takes_the_place_of_the_old_one(stores):
    stores.dead_letters.put(a_letter())
    successor = a_letter(1, edited_from="0")

    assert stores.dead_letters.replace("unknown", successor) == "deleted"
    assert [stores.dead_letters.replace("0", successor) for _ in range(2)] == ["edited", "edited"]
    assert stores.dead_letters.replace("0", a_letter(2)) == "replaced"

    assert stores.dead_letters.count_by_state() == {"replaced": 1, "pending": 1}
    assert start(stores, a_start()) == "replaced"


def test_letters_are_removed_only_as_they_were_seen(stores, client):
    letters = [a_letter(number) for number in range(4)]
    for letter in letters:
        stores.dead_letters.put(letter)
    seen = dict(stores.dead_letters.list_times())
    start(stores, a_start(1, letter_id="0"))
    stores.dead_letters.put(a_letter(1, at=datetime.now(UTC) + timedelta(seconds=5)))

    assert stores.dead_letters.remove([(each, "pending", at) for each, at in seen.items()]) == [
        False,
        False,
        True,
        True,
    ]
    assert stores.dead_letters.remove([("0", "replaying", None), ("3", "pending", None)]) == [True, False]

    assert stores.dead_letters.ids() == ["1"]
    assert client.hlen(KEYS.dead_letter_replays) == 0


def test_a_letter_that_comes_back_is_as_it_was_and_one_that_is_known_stays(stores):
    kept = DeadLetterRecord(a_letter(), "failed_again", 3, datetime(2026, 1, 1, tzinfo=UTC), "ada @ home")

    assert stores.dead_letters.import_letters([kept, kept]) == [True, False]

    assert list(stores.dead_letters.iterate()) == [kept]
    assert start(stores, a_start(4)) == "started"


def test_letters_are_read_in_states_and_in_pages_of_any_size(stores, monkeypatch):
    monkeypatch.setattr("petiole.tasks.stores.dead_letters.LETTER_PAGE_SIZE", 3)
    monkeypatch.setattr("petiole.tasks.stores.dead_letters.MAX_PAGE_BYTES", 1_000)
    for number in range(10):
        stores.dead_letters.put(a_letter(number, traceback="x" * 150 * number))
        if number % 2:
            stores.dead_letters.resolve(str(number))

    assert [kept.letter.id for kept in stores.dead_letters.iterate()] == [str(number) for number in range(10)]
    assert [kept.letter.id for kept in stores.dead_letters.iterate(["resolved"])] == ["1", "3", "5", "7", "9"]
    assert stores.dead_letters.count_by_state() == {"pending": 5, "resolved": 5}
    assert stores.dead_letters.count() == 10


def test_one_at_a_time_looks_after_retention(stores):
    assert stores.dead_letters.acquire_retention_lock("one", AN_HOUR)
    assert not stores.dead_letters.acquire_retention_lock("two", AN_HOUR)
    stores.dead_letters.release_retention_lock()
    assert stores.dead_letters.acquire_retention_lock("two", AN_HOUR)

    assert stores.dead_letters.is_alarm_due("near")
    stores.dead_letters.record_alarm("near")
    assert not stores.dead_letters.is_alarm_due("near")
