"""What each store of the agents' state promises, on a real server and on the stand-in that the harness uses."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import fakeredis
import pytest
import redis

from petiole.events.catalog.memory import Fact, MemoryItem
from petiole.tasks.settings import Settings
from petiole.workers.state import TeamState, open_team_state
from petiole.workers.state import facts as facts_module
from petiole.workers.state.facts import MAX_VALUES_PER_FACT
from petiole.workers.state.memories import CONSOLIDATED_PER_STREAM, MAX_PER_STREAM


@pytest.fixture(params=["fakeredis", "valkey"])
def client(request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    if request.param == "fakeredis":
        with fakeredis.FakeRedis(server=fakeredis.FakeServer(), decode_responses=True) as client:
            yield client
    else:
        with redis.Redis.from_url(request.getfixturevalue("clean_broker_url"), decode_responses=True) as client:
            yield client


@pytest.fixture
def team(client: redis.Redis) -> TeamState:
    return open_team_state(client, Settings())


def a_recollection(text: str, minute: int = 0) -> MemoryItem:
    said_at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)
    return MemoryItem(role="user", text=text, said_at=said_at)


def a_fact(value: str, minute: int = 0) -> Fact:
    return Fact(
        subject="user",
        attribute="name",
        value=value,
        text=f"My name is {value}.",
        said_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute),
        source=f"00000000-0000-7000-8000-{minute:012}",
        stream_id="s",
    )


def test_a_memory_kept_twice_stands_there_once(team):
    for _ in range(2):
        team.memories.keep("s", "one", a_recollection("first"))
    team.memories.keep("s", "two", a_recollection("first"))

    assert [each.text for each in team.memories.read("s")] == ["first", "first"]


def test_memories_are_read_by_time_and_the_newest_stay(team):
    for minute in reversed(range(MAX_PER_STREAM + 2)):
        team.memories.keep("s", str(minute), a_recollection(str(minute), minute))

    texts = [each.text for each in team.memories.read("s")]

    assert texts == [str(minute) for minute in range(2, MAX_PER_STREAM + 2)]


def test_a_clean_up_merges_what_was_said_twice_and_drops_the_oldest(team):
    for minute in range(CONSOLIDATED_PER_STREAM + 4):
        team.memories.keep("s", str(minute), a_recollection(str(minute // 2) if minute < 4 else str(-minute), minute))

    done = team.memories.consolidate("s")

    assert (done.examined, done.merged, done.dropped) == (CONSOLIDATED_PER_STREAM + 4, 2, 2)
    assert [each.text for each in team.memories.read("s")] == [
        str(-minute) for minute in range(4, CONSOLIDATED_PER_STREAM + 4)
    ]
    assert team.memories.consolidate("s").merged == 0


def test_what_a_clean_up_took_away_does_not_come_back(team):
    said = {str(minute): a_recollection(str(-minute if minute > 1 else 0), minute) for minute in range(503)}
    for key, each in said.items():
        team.memories.keep("s", key, each)
    team.memories.consolidate("s")
    kept = team.memories.read_by_key("s")

    assert not any(team.memories.keep("s", key, each) for key, each in said.items())
    assert team.memories.read_by_key("s") == kept
    assert team.memories.keep("s", "new", a_recollection("new", 504))


def test_what_was_merged_does_not_come_back(team):
    for minute in (1, 2):
        team.memories.keep("s", str(minute), a_recollection("the same", minute))
    team.memories.consolidate("s")

    assert not any(team.memories.keep("s", str(minute), a_recollection("the same", minute)) for minute in (1, 2))
    assert list(team.memories.read_by_key("s")) == ["2"]


def test_streams_to_clean_up_are_those_that_changed(team):
    for stream in ("one", "two"):
        team.memories.keep(stream, "k", a_recollection("hi"))
    team.memories.consolidate_changed("one")
    team.memories.keep("one", "k", a_recollection("hi"))

    assert team.memories.list_changed(10) == ["two"]


def test_of_a_fact_all_values_are_kept_and_a_contradiction_is_told_the_same_again(team):
    ada, grace = a_fact("Ada", 1), a_fact("Grace", 2)

    assert team.facts.learn("user:1", ada) is None
    assert [team.facts.learn("user:1", grace) for _ in range(2)] == [(ada, grace)] * 2
    assert team.facts.read("user:1") == [(ada, grace)]
    assert team.facts.read("user:2") == []


def test_of_many_that_learn_at_once_none_is_lost(team):
    facts = [a_fact(f"name {minute}", minute) for minute in range(MAX_VALUES_PER_FACT)]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda fact: team.facts.learn("user:1", fact), facts))

    assert team.facts.read("user:1") == [tuple(facts)]


def test_of_more_facts_than_are_kept_the_oldest_give_way(team, monkeypatch):
    monkeypatch.setattr(facts_module, "MAX_FACTS_PER_OWNER", 2)
    for minute in range(3):
        fact = a_fact("x", minute).model_copy(update={"attribute": f"number {minute}"})
        team.facts.learn("user:1", fact)

    assert [values[-1].attribute for values in team.facts.read("user:1")] == ["number 1", "number 2"]


def test_a_vector_is_read_as_it_was_put_by_its_text_and_model(team):
    team.vectors.put("m", {"one": b"\x00\xff\x80", "\ud800": b"\x01"})

    assert team.vectors.get("m", ["one", "two", "\ud800"]) == [b"\x00\xff\x80", None, b"\x01"]
    assert team.vectors.get("other", ["one"]) == [None]
    assert team.vectors.get("m", []) == []


def notice(team: TeamState, event: str, second: float, enough: int = 3, what: str = "it") -> int:
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
    minute = timedelta(minutes=1)
    return team.event_counts.count(what, event, at, threshold=enough, window=minute, cooldown=10 * minute)


def test_a_reply_is_put_there_once_and_handed_to_one_reader(team):
    for _ in range(2):
        team.outbound_messages.append("s", "one", "Hello")
    team.outbound_messages.append("s", "two", "Goodbye")

    taken = [team.outbound_messages.take("s", timeout_s=0.05) for _ in range(3)]

    assert [reply and reply.text for reply in taken] == ["Hello", "Goodbye", None]


def test_what_comes_often_enough_is_told_once_in_a_cooldown(team):
    told = [notice(team, str(second), second) for second in range(100)]

    assert told == [0, 0, 3, *[0] * 97]
    assert [notice(team, f"later {second}", 605 + second) for second in range(3)] == [0, 0, 3]


def test_what_comes_seldom_is_not_told(team):
    assert [notice(team, str(second), second) for second in range(0, 600, 31)] == [0] * 20


def test_an_event_that_is_counted_again_counts_once_and_hears_the_same(team):
    told = [notice(team, event, second) for second, event in enumerate("aabbccabcc")]

    assert [bool(each) for each in told] == [False] * 4 + [True, True, False, False, True, True]


def test_of_many_that_count_at_once_one_is_told(team):
    with ThreadPoolExecutor(20) as pool:
        told = list(pool.map(lambda number: notice(team, str(number), number / 10), range(100)))

    assert sum(map(bool, told)) == 1
