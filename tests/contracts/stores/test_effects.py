"""What was done is known: deliveries, effects, and counts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from petiole.tasks.settings import Settings
from petiole.tasks.stores import Stores, open_stores
from petiole.tasks.stores.idempotency_records import BeginResult
from petiole.tasks.stores.keys import Keys

KEYS = Keys("petiole")


def test_a_marked_delivery_is_recognised(stores):
    stores.inbox.mark_handled("one")

    assert stores.inbox.is_handled("one")
    assert not stores.inbox.is_handled("another")


def begin(stores: Stores, name: str = "charge:1", **options: object) -> BeginResult:
    given: dict[str, Any] = {
        "token": "t",
        "owner": "",
        "limit": timedelta(minutes=1),
        "repeats_unfinished": False,
    } | options
    return stores.idempotency_records.begin(name, **given)


def test_of_many_that_begin_an_effect_one_is_told_to_go_on(stores):
    with ThreadPoolExecutor(20) as pool:
        states = list(pool.map(lambda number: begin(stores, token=str(number)).state, range(20)))

    assert sorted(states) == [*["in_progress"] * 19, "started"]


def test_an_effect_has_the_outcome_that_was_noted_first(stores):
    begin(stores)

    assert [
        stores.idempotency_records.finish("charge:1", "first"),
        stores.idempotency_records.finish("charge:1", "second"),
    ] == ["first"] * 2

    assert begin(stores) == BeginResult("done", outcome="first")
    assert begin(stores, "charge:2").state == "started"


@pytest.mark.parametrize("over", [{"limit": timedelta(0)}, {"owner": "a-delivery"}])
def test_an_effect_whose_beginner_is_over_is_unfinished_and_begun_anew_only_on_request(stores, over):
    begin(stores, owner="a-delivery")
    assert begin(stores, owner="another").state == "in_progress"

    unfinished = begin(stores, **over)

    assert unfinished.state == "unfinished"
    assert unfinished.since is not None
    assert abs(unfinished.since - datetime.now(UTC)) < timedelta(minutes=1)
    assert begin(stores, repeats_unfinished=True, **over).state == "started"


def test_an_effect_can_be_abandoned_by_who_began_it_unless_it_is_done(stores):
    begin(stores, token="mine")

    stores.idempotency_records.release("charge:1", "another's")
    assert begin(stores).state == "in_progress"
    stores.idempotency_records.release("charge:1", "mine")
    assert begin(stores, token="mine").state == "started"
    stores.idempotency_records.finish("charge:1", "done")
    stores.idempotency_records.release("charge:1", "mine")
    assert begin(stores).state == "done"


def test_an_effect_is_known_for_its_age_and_can_be_forgotten(client):
    stores = open_stores(client, Settings(idempotency_retention_s=300))
    begin(stores)
    stores.idempotency_records.finish("charge:1", "done")

    assert 290_000 < client.pttl(KEYS.idempotency_record("charge:1")) <= 300_000
    assert stores.idempotency_records.forget("charge:1")
    assert not stores.idempotency_records.forget("charge:1")
    assert begin(stores).state == "started"


def test_counts_add_up(stores):
    stores.counters.add("unrouted")
    stores.counters.add("unrouted", 2)

    assert stores.counters.all() == {"unrouted": 3}
