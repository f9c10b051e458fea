"""The working memory of a session."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from petiole.events.errors import SessionEnded, UsageError
from petiole.tasks import (
    Participant,
    open_session,
)
from petiole.tasks.settings import Settings
from tests.support.errors import has_code


def test_working_memory_keeps_json_values(session):
    values = {"text": "tea ☕", "count": 3, "share": 0.5, "is": True, "none": None, "list": [1, {"a": []}]}

    session.memory.update({**values, "pause": timedelta(seconds=5)})

    assert session.memory.all() == values | {"pause": timedelta(seconds=5)}
    assert session.memory.get("count") == 3
    assert session.memory.get("nothing", "else") == "else"
    session.memory.remove(["count", "unknown"])
    assert session.memory.get("count") is None


def test_50_increments_at_once_are_50(session):
    with ThreadPoolExecutor(10) as pool:
        seen = list(pool.map(lambda _: session.memory.increment("turns"), range(50)))

    assert sorted(seen) == list(range(1, 51))
    assert session.memory.get("turns") == 50


def test_a_working_memory_over_its_limit_is_refused_and_keeps_what_it_had(session):
    session.memory.update({"topic": "tea", "list": "x" * 60_000})

    with pytest.raises(UsageError, check=has_code("working_memory_full"), match=r"hold 6\d,\d{3} bytes, 65,536"):
        session.memory.update({"topic": "coffee", "more": "y" * 6_000})

    assert session.memory.get("topic") == "tea"
    assert session.memory.get("more") is None
    session.memory.remove(["list"])
    session.memory.update({"topic": "coffee", "more": "y" * 6_000})
    assert session.memory.get("topic") == "coffee"


def test_a_counter_that_finds_no_room_is_not_counted(bus):
    bus.settings = Settings(max_session_memory_bytes=10)
    session = open_session("s", bus=bus)
    session.memory.set("aaaa", 1)

    with pytest.raises(UsageError, check=has_code("working_memory_full")):
        session.memory.increment("bbbbbb")
    with pytest.raises(UsageError, check=has_code("working_memory_full")):
        session.memory.increment("aaaa", 10**7)

    assert session.memory.all() == {"aaaa": 1}


@pytest.mark.parametrize(
    "value", [float("nan"), object(), {1: 2}, 2**70, b"x"], ids=["nan", "object", "key", "big", "bytes"]
)
def test_what_is_no_json_is_refused_by_name_and_changes_nothing(session, value):
    with pytest.raises(UsageError, check=has_code("invalid_working_memory"), match="topic"):
        session.memory.update({"other": 1, "topic": value})

    assert session.memory.all() == {}


@pytest.mark.parametrize("by", [0.5, True, "1", 2**63])
def test_only_a_whole_number_is_counted(session, by):
    with pytest.raises(UsageError, check=has_code("invalid_working_memory"), match="turns"):
        session.memory.increment("turns", by)


@pytest.mark.parametrize("value", ["tea", 1.5, [1], 2**63 - 1])
def test_what_is_no_whole_number_does_not_grow(session, value):
    session.memory.set("turns", value)

    with pytest.raises(UsageError, check=has_code("invalid_working_memory"), match="set it to a whole number"):
        session.memory.increment("turns")

    assert session.memory.get("turns") == value


def test_a_whole_number_of_64_bits_is_counted_exactly(session):
    session.memory.set("turns", 2**62)

    assert session.memory.increment("turns") == 2**62 + 1


def test_an_ended_session_has_no_working_memory(bus, session):
    session.transition("ended", reason="closed")

    with pytest.raises(SessionEnded):
        session.memory.set("topic", "tea")
    with pytest.raises(SessionEnded):
        session.memory.increment("turns")
    with pytest.raises(SessionEnded):
        session.join(Participant(id="ada"))
