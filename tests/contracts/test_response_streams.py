"""The contract of response streams, on a real server and on fakeredis."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import fakeredis
import pytest
import redis
from celery import Celery
from redis.asyncio import Redis as AsyncRedis

from petiole.events.errors import StreamTimeout, StreamTruncated
from petiole.tasks import Chunk, EventBus, ResponseStreamReader
from petiole.tasks.settings import Settings
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.response_streams import ResponseStreams, StreamLimits

WORDS = [f"word{number} " for number in range(60)]


class Reading(EventBus):
    """A bus whose state store is a client of the test."""

    connects: Callable[[], AsyncRedis]

    def connect_async(self) -> AsyncRedis:
        return self.connects()


@pytest.fixture(params=["fakeredis", "valkey"])
def bus(request: pytest.FixtureRequest) -> Iterator[Reading]:
    if request.param == "fakeredis":
        server = fakeredis.FakeServer()
        client: redis.Redis = fakeredis.FakeRedis(server=server, decode_responses=True)
        connects: Callable[[], AsyncRedis] = lambda: fakeredis.FakeAsyncRedis(server=server, decode_responses=True)  # noqa: E731 - beside its twin
    else:
        url = request.getfixturevalue("clean_broker_url")
        client = redis.Redis.from_url(url, decode_responses=True)
        connects = lambda: AsyncRedis.from_url(url, decode_responses=True)  # noqa: E731 - as above
    bus = Reading(Celery("reading", set_as_current=False), settings=Settings(heartbeat_timeout_s=1))
    bus._state = client
    bus.connects = connects
    yield bus
    client.close()


@pytest.fixture
def drafts(bus: Reading) -> ResponseStreams:
    return bus.stores.response_streams


@pytest.fixture
def read(bus: Reading) -> ResponseStreamReader:
    return ResponseStreamReader(bus)


def begin(drafts: ResponseStreams, answer: str = "a", token: str = "t", **options: Any) -> tuple[str, str]:
    return drafts.begin("s", answer, correlation_id="f", token=token, **options)


def write(drafts: ResponseStreams, text: str = "", answer: str = "a", token: str = "t", **options: Any) -> str:
    return drafts.write("s", answer, token=token, text=text, **options)


def an_answer(drafts: ResponseStreams, *words: str, answer: str = "a") -> None:
    begin(drafts, answer)
    for word in words:
        write(drafts, word, answer)
    write(drafts, answer=answer, end="finished")


def text_of(pieces: list[Chunk]) -> str:
    return "".join(piece.text for piece in pieces)


def kinds_of(pieces: list[Chunk]) -> list[str]:
    return [piece.kind for piece in pieces]


def test_a_stream_is_read_from_its_beginning_to_its_end(drafts: ResponseStreams, read: ResponseStreamReader) -> None:
    an_answer(drafts, "Hel", "lo")

    pieces = list(read("s", "a"))

    assert kinds_of(pieces) == ["started", "delta", "delta", "finished"]
    assert text_of(pieces) == "Hello"
    assert {(piece.answer_id, piece.correlation_id, piece.attempt) for piece in pieces} == {("a", "f", 1)}


def test_a_reader_that_resumes_at_any_chunk_gets_exactly_the_rest(
    drafts: ResponseStreams, read: ResponseStreamReader
) -> None:
    an_answer(drafts, *WORDS)
    whole = list(read("s", "a"))

    for seed in range(50):
        place = random.Random(seed).randrange(len(whole))
        assert whole[: place + 1] + list(read("s", "a", after=whole[place].number, timeout=3)) == whole

    assert text_of(whole) == "".join(WORDS)
    numbers = [piece.number for piece in whole]
    assert numbers == list(range(numbers[0], numbers[0] + len(whole)))


def test_a_reader_that_reconnects_while_the_stream_is_written_misses_nothing(
    drafts: ResponseStreams, read: ResponseStreamReader
) -> None:
    chance = random.Random(7)
    begin(drafts)
    got: list[Chunk] = []

    def write_all() -> None:
        for word in WORDS:
            write(drafts, word)
        write(drafts, end="finished")

    writer = threading.Thread(target=write_all)
    writer.start()
    while not got or not got[-1].is_end:
        reading = read("s", "a", after=got[-1].number if got else 0, timeout=5)
        got += [piece for piece, _ in zip(reading, range(chance.randint(1, 5)), strict=False)]
    writer.join()

    assert text_of(got) == "".join(WORDS)
    assert kinds_of(got).count("finished") == 1


def test_an_early_reader_waits_for_the_first_chunk(drafts: ResponseStreams, read: ResponseStreamReader) -> None:
    writer = threading.Timer(0.2, an_answer, [drafts, "Hello"])
    writer.start()

    assert text_of(list(read("s", "a", timeout=5))) == "Hello"
    writer.join()


def test_an_async_reader_gets_the_same_chunks(drafts: ResponseStreams, read: ResponseStreamReader) -> None:
    async def collected(pieces: AsyncIterator[Chunk]) -> list[Chunk]:
        return [piece async for piece in pieces]

    writer = threading.Timer(0.1, an_answer, [drafts, *WORDS])
    writer.start()

    assert asyncio.run(collected(read.aio("s", "a", timeout=5))) == list(read("s", "a"))
    writer.join()


def test_the_responses_of_a_stream_are_read_one_after_the_other(
    drafts: ResponseStreams, read: ResponseStreamReader
) -> None:
    an_answer(drafts, "one")
    an_answer(drafts, "two", answer="b")

    reading = read.all("s", timeout=1)
    pieces = [next(reading) for _ in range(6)]

    assert [piece.answer_id for piece in pieces] == ["a", "a", "a", "b", "b", "b"]
    assert text_of(list(read("s", "b"))) == "two"
    with pytest.raises(StreamTimeout, match=f"after={pieces[-1].number}"):
        next(read.all("s", after=pieces[-1].number, timeout=0.2))


def test_a_timeout_names_the_chunk_to_resume_from(drafts: ResponseStreams, read: ResponseStreamReader) -> None:
    begin(drafts)
    write(drafts, "Hel")

    reading = read("s", "a", timeout=0.3)
    got = [next(reading), next(reading)]
    with pytest.raises(StreamTimeout, match=f"after={got[-1].number}"):
        next(reading)


def test_a_crashed_writer_is_marked_as_lost_once_within_the_lease(
    drafts: ResponseStreams, read: ResponseStreamReader
) -> None:
    begin(drafts)
    write(drafts, "Hel")

    one, other = list(read("s", "a", timeout=3)), list(read("s", "a", timeout=3))

    assert kinds_of(one) == ["started", "delta", "abandoned"]
    assert one == other
    assert write(drafts, "lo") == "abandoned"
    assert list(read("s", "a")) == one


def test_a_writer_that_renews_its_lease_is_not_lost(drafts: ResponseStreams, read: ResponseStreamReader) -> None:
    begin(drafts)
    reading = read("s", "a", timeout=1.6)
    assert next(reading).kind == "started"
    vouching = [threading.Timer(after_s, write, [drafts]) for after_s in (0.5, 1.0, 1.5)]
    for each in vouching:
        each.start()

    with pytest.raises(StreamTimeout):
        next(reading)
    for each in vouching:
        each.join()


def test_a_writer_replaced_by_another_attempt_ends_as_lost_and_writes_no_more(
    drafts: ResponseStreams, read: ResponseStreamReader
) -> None:
    begin(drafts)
    write(drafts, "Hel")

    assert begin(drafts, token="u") == ("open", "2")
    assert write(drafts, "lo") == "superseded"
    assert write(drafts, end="finished") == "superseded"
    write(drafts, "Hello", token="u", end="finished")

    pieces = list(read("s", "a"))
    assert kinds_of(pieces) == ["started", "delta", "abandoned", "started", "delta", "finished"]
    assert [piece.attempt for piece in pieces] == [1, 1, 1, 2, 2, 2]


def test_a_reader_that_continues_after_a_lost_attempt_gets_the_next_one(
    drafts: ResponseStreams, read: ResponseStreamReader
) -> None:
    begin(drafts)
    *_, lost = read("s", "a", timeout=3)
    begin(drafts, token="u")
    write(drafts, "Hello", token="u", end="finished")

    rest = list(read("s", "a", after=lost.number, timeout=3))

    assert lost.kind == "abandoned"
    assert [(piece.kind, piece.attempt) for piece in rest] == [("started", 2), ("delta", 2), ("finished", 2)]


def test_no_chunk_follows_the_end_of_a_stream(drafts: ResponseStreams, read: ResponseStreamReader) -> None:
    an_answer(drafts, "Hello")

    assert write(drafts, " again") == "finished"
    assert write(drafts, end="failed") == "finished"
    assert kinds_of(list(read("s", "a"))) == ["started", "delta", "finished"]


def test_a_second_response_is_rejected_while_another_is_written(drafts: ResponseStreams) -> None:
    begin(drafts)

    assert begin(drafts, "b", rejects=True) == ("busy", "a")
    assert begin(drafts, "a", "u", rejects=True) == ("open", "2")
    write(drafts, token="u", end="finished")
    assert begin(drafts, "b", rejects=True) == ("open", "1")


def test_a_crashed_writer_blocks_no_other_writer(bus: Reading) -> None:
    limits = StreamLimits(writer_timeout=timedelta(milliseconds=1), retention=timedelta(minutes=1), max_chunks=10)
    drafts = ResponseStreams(bus.stores.response_streams._client, Keys("p"), limits)
    begin(drafts)
    bus.stores.response_streams.wait("s", after=0, timeout_s=0.01)

    assert begin(drafts, "b", rejects=True) == ("open", "1")


def test_chunks_beyond_the_maximum_are_dropped_and_a_reader_that_needs_them_gets_an_error(bus: Reading) -> None:
    limits = StreamLimits(writer_timeout=timedelta(seconds=5), retention=timedelta(minutes=1), max_chunks=10)
    bus.stores.response_streams.limits = limits
    an_answer(bus.stores.response_streams, *WORDS)
    read = ResponseStreamReader(bus)

    with pytest.raises(StreamTruncated, match=r"llm\.response\.generated"):
        list(read("s", "a"))
    kept = bus.stores.response_streams.read("s", after=0)
    assert len(kept) == 10
    assert list(read("s", "a", after=kept[0].number)) == kept[1:]


def test_streams_expire_and_chunk_numbers_still_increase(bus: Reading) -> None:
    client: Any = bus.stores.response_streams._client
    an_answer(bus.stores.response_streams, "one")
    before = bus.stores.response_streams.read("s", after=0)[-1].number
    keys = [key for key in client.keys("*response_st*") if "open_" not in key]

    assert len(keys) == 2
    assert all(0 < client.ttl(key) <= 24 * 3600 for key in keys)
    client.flushall()
    bus.stores.response_streams.wait("s", after=0, timeout_s=0.01)
    an_answer(bus.stores.response_streams, "two")
    assert bus.stores.response_streams.read("s", after=0)[0].number > before
