"""The history: each event once, in order, by stream, flow, pattern and time, within its limits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import redis

import petiole.tasks.stores
from petiole.events import TextContent, TextMessageEvent
from petiole.tasks.settings import Settings
from petiole.tasks.stores import Stores, open_stores
from petiole.tasks.stores.history import HISTORY_PAGE_SIZE, HistoryQuery, RecordedEvent
from petiole.tasks.stores.keys import Keys

KEYS = Keys("petiole")
BLOCK = 32


def an_event(text: str = "hi", **fields: object) -> TextMessageEvent:
    return TextMessageEvent.model_validate({"stream_id": "s", "content": TextContent(text=text)} | fields)


def record(stores: Stores, event: TextMessageEvent) -> str:
    return stores.history.record(event, event.model_dump_json())


def texts(recorded: list[RecordedEvent]) -> list[str]:
    """Read what the recorded messages say."""
    messages = [TextMessageEvent.model_validate(each.document) for each in recorded]
    return [message.content.text for message in messages]


def test_an_event_is_recorded_once(stores):
    event = an_event()

    assert [record(stores, event), record(stores, event)] == ["new", "started"]

    assert len(stores.history.read_after()) == 1


def test_a_closed_publication_is_known_as_done(stores):
    event = an_event()
    record(stores, event)

    stores.history.mark_published(event.event_id)

    assert record(stores, event) == "done"


def test_history_is_read_by_stream_and_by_flow_oldest_first(stores):
    events = [an_event(str(number), stream_id=f"s{number % 2}", correlation_id=f"c{number % 3}") for number in range(6)]
    for event in events:
        record(stores, event)

    assert texts(stores.history.read_after()) == ["0", "1", "2", "3", "4", "5"]
    assert texts(stores.history.read_stream("s0")) == ["0", "2", "4"]
    assert texts(stores.history.read_flow("c1")) == ["1", "4"]
    assert stores.history.read_stream("unheard-of") == []


def test_history_is_read_from_where_one_stopped(stores):
    record(stores, an_event("before"))
    last = stores.history.last_entry_id()
    record(stores, an_event("after"))

    (recorded,) = stores.history.read_after(last)

    assert texts([recorded]) == ["after"]
    assert stores.history.read_after(stores.history.last_entry_id()) == []
    assert stores.history.read_after(stores.history.last_entry_id(), block_ms=20) == []


def test_a_streams_index_keeps_the_newest(client, monkeypatch):
    monkeypatch.setattr(petiole.tasks.stores, "EVENTS_PER_STREAM", 3)
    stores = open_stores(client, Settings())
    for number in range(5):
        record(stores, an_event(str(number)))

    assert texts(stores.history.read_stream("s")) == ["2", "3", "4"]


def test_history_is_capped_by_number_in_blocks(client):
    stores = open_stores(client, Settings(max_history_events=100))

    for number in range(300):
        record(stores, an_event(str(number)))
        kept = client.xlen(KEYS.history)
        assert kept >= min(number + 1, 100)
        assert kept <= 100 + 3 * BLOCK

    kept_texts = texts(stores.history.read_after())
    assert kept_texts == [str(number) for number in range(300)][-len(kept_texts) :]


def test_history_is_capped_by_age_in_blocks(client):
    stores = open_stores(client, Settings(history_retention_s=3_600))
    first = age_history(client, events=2 * BLOCK, ago=timedelta(hours=2))
    age_history(client, events=2 * BLOCK, ago=timedelta(minutes=59), after=first)

    for number in range(BLOCK):
        record(stores, an_event(f"new {number}"))

    kept = texts(stores.history.read_after())
    assert kept[-1] == f"new {BLOCK - 1}"
    assert [text for text in kept if not text.startswith("new")][:2] == [str(2 * BLOCK), str(2 * BLOCK + 1)]


@pytest.mark.parametrize(
    ("lowered", "left"), [({"max_history_events": 10}, 4 * BLOCK), ({"history_retention_s": 60}, 7 * BLOCK)]
)
def test_a_limit_that_was_lowered_is_reached_step_by_step(client, lowered, left):
    age_history(client, events=10 * BLOCK - 1, ago=timedelta(hours=1))
    stores = open_stores(client, Settings(**lowered))

    kept = []
    for number in range(6 * BLOCK):
        record(stores, an_event("new"))
        if number % BLOCK == 0:
            kept.append(client.xlen(KEYS.history))

    assert kept[:3] == [8 * BLOCK + 1, 7 * BLOCK + 1, 6 * BLOCK + 1], "two blocks less, and one more"
    assert kept[-1] <= left


def age_history(client: redis.Redis, *, events: int, ago: timedelta, after: int = 0) -> int:
    """Put events into the history as if they had been recorded some time ago, after so many others."""
    at_ms = int((datetime.now(UTC) - ago).timestamp() * 1_000)
    for number in range(after + 1, after + events + 1):
        text = an_event(str(number)).model_dump_json()
        entry = f"{at_ms}-{number}"
        client.xadd(KEYS.history, {"event": text}, id=entry)
        if number == 1 or number % BLOCK == 0:
            client.rpush(f"{KEYS.history}:blocks", f"{number // BLOCK}/{entry}")
    client.set(f"{KEYS.history}:count", after + events)
    return events


def test_an_index_forgets_the_events_that_the_history_has_deleted(client):
    stores = open_stores(client, Settings(max_history_events=32))

    for number in range(400):
        record(stores, an_event(str(number)))

    (index,) = client.scan_iter(f"{KEYS.history}:streams:*")
    assert client.llen(index) <= client.xlen(KEYS.history) + BLOCK


SOME = [
    ("one", "a", "input.message.received"),
    ("two", "b", "input.message.received"),
    ("one", "a", "message.sent"),
    ("two", "c", "message.sent"),
    ("one", "c", "error.dead_lettered"),
]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (HistoryQuery(), [0, 1, 2, 3, 4]),
        (HistoryQuery(stream_id="one"), [0, 2, 4]),
        (HistoryQuery(correlation_id="c"), [3, 4]),
        (HistoryQuery(stream_id="one", correlation_id="c"), [4]),
        (HistoryQuery(pattern="message.*"), [2, 3]),
        (HistoryQuery(pattern="*"), [0, 1, 2, 3]),
        (HistoryQuery(stream_id="one", pattern="input.message.received"), [0]),
        (HistoryQuery(stream_id="nobody"), []),
    ],
)
def test_history_is_selected_by_stream_flow_and_pattern(stores, selection, expected):
    events = [an_event().model_copy(update={"stream_id": stream, "correlation_id": flow}) for stream, flow, _ in SOME]
    for event, (_, _, topic) in zip(events, SOME, strict=True):
        renamed = event.model_copy(update={"event_type": topic})
        stores.history.record(renamed, renamed.model_dump_json())

    selected = [recorded.attributes["event_id"] for recorded in stores.history.select(selection)]

    assert selected == [events[index].event_id for index in expected]


@pytest.mark.parametrize("where", [{}, {"stream_id": "s"}])
def test_history_is_selected_by_time(stores, client, where):
    for number in range(4):
        record(stores, an_event(str(number)))
        wait_a_millisecond(client)
    moments = [datetime.fromtimestamp(each.recorded_at_ms / 1_000, UTC) for each in stores.history.read_after()]

    def selected(since: datetime | None = None, until: datetime | None = None) -> list[str]:
        return texts(list(stores.history.select(HistoryQuery(since=since, until=until, **where))))

    assert selected(since=moments[1]) == ["1", "2", "3"]
    assert selected(until=moments[2]) == ["0", "1"]
    assert selected(since=moments[1], until=moments[3]) == ["1", "2"]
    assert selected(since=moments[3] + timedelta(hours=1)) == []


def wait_a_millisecond(client: redis.Redis) -> None:
    seconds, microseconds = client.time()
    while client.time() < (seconds, microseconds + 2_000):
        pass


@pytest.mark.parametrize("where", [{}, {"stream_id": "s"}])
def test_a_selection_of_any_length_is_read_to_the_end_it_had_when_it_began(stores, where):
    for number in range(HISTORY_PAGE_SIZE + 2):
        record(stores, an_event(str(number)))

    found = []
    for recorded in stores.history.select(HistoryQuery(**where)):
        found.append(recorded)
        if len(found) % HISTORY_PAGE_SIZE == 1:
            record(stores, an_event("while it was read"))

    assert texts(found) == [str(number) for number in range(HISTORY_PAGE_SIZE + 2)]
