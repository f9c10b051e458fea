"""Requests that are waited for, and gatherings of several events."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import redis

from petiole.tasks.stores import Stores
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.requests import Reply, ReplyRegistration

KEYS = Keys("petiole")


def an_asking(request_id: str = "r-1", **fields: Any) -> ReplyRegistration:
    said: dict[str, Any] = {"request_type": "ask", "responder": "users", "token": "mine", "timeout_s": 30.0}
    said["reply_to"] = "replies"
    return ReplyRegistration(**({"request_id": request_id} | said | fields))


def test_a_request_is_waited_for_once_at_a_time_and_again_by_the_same(stores: Stores):
    assert stores.requests.register(an_asking())
    assert not stores.requests.register(an_asking(token="another's"))
    assert stores.requests.register(an_asking())
    assert stores.requests.count() == 1


def test_a_request_is_answered_or_given_up_and_not_both(stores: Stores, client: redis.Redis):
    stores.requests.register(an_asking("answered"))
    stores.requests.register(an_asking("given up"))

    assert stores.requests.respond(Reply("answered", "users", "e-1"), "yes") is None
    assert not stores.requests.forget("answered", "mine")
    assert stores.requests.forget("given up", "mine")
    assert stores.requests.respond(Reply("given up", "users", "e-2"), "no") == "late"

    assert client.lrange("replies", 0, -1) == ["answered\nyes"]
    assert 0 < client.pttl("replies") <= 120_000
    assert stores.requests.count() == 0


def test_nobody_gives_up_what_another_asked(stores: Stores):
    stores.requests.register(an_asking())

    stores.requests.forget("r-1", "another's")

    assert stores.requests.count() == 1


def test_only_the_first_answer_of_the_responder_in_time_reaches_who_waits(stores, client, eventually):
    stores.requests.register(an_asking())
    stores.requests.register(an_asking("short", timeout_s=0.05))

    assert stores.requests.respond(Reply("r-1", "impostor", "e-0"), "false") == "wrong_responder"
    assert stores.requests.respond(Reply("r-1", "users", "e-1"), "first") is None
    assert stores.requests.respond(Reply("r-1", "users", "e-1"), "first") is None
    assert stores.requests.respond(Reply("r-1", "users", "e-2"), "second") == "duplicate"
    eventually(lambda: stores.requests.count() == 0, 5)
    assert stores.requests.respond(Reply("short", "users", "e-3"), "too late") == "late"

    assert client.lrange("replies", 0, -1) == ["r-1\nfirst"]
    assert stores.counters.all()["replies_unmatched"] == 3


def test_an_overdue_request_of_a_dead_requester_leaves_the_table_with_the_next(stores, client, eventually):
    stores.requests.register(an_asking(timeout_s=0.05))
    eventually(lambda: stores.requests.count() == 0, 5)

    stores.requests.register(an_asking("r-2"))

    assert client.zrange(KEYS.requests, 0, -1) == ["r-2"]


def test_a_gathering_keeps_the_first_of_each_part_and_none_after_it_was_closed(stores: Stores, client: redis.Redis):
    def add(part: int, text: str) -> str:
        return stores.aggregations.add("shop.offer", "k", part, text, part_count=3, timeout=timedelta(seconds=5))

    assert [add(0, "a"), add(0, "another a"), add(2, "c")] == ["incomplete"] * 3
    assert stores.aggregations.complete("shop.offer", "k") == {0: "a", 2: "c"}
    assert add(1, "b") == "completed"
    assert stores.aggregations.complete("shop.offer", "k") == {0: "a", 2: "c"}
    assert 0 < client.pttl(KEYS.aggregation("shop.offer", "k")) <= 3_600_000


def test_whoever_brings_a_part_of_a_complete_gathering_is_told_so_also_when_brought_again(stores: Stores):
    def add(part: int) -> str:
        return stores.aggregations.add("shop.offer", "k", part, "x", part_count=2, timeout=timedelta(seconds=5))

    assert [add(0), add(1), add(1), add(0)] == ["incomplete", "complete", "complete", "complete"]
