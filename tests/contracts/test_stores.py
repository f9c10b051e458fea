"""What each store promises, on a real server and on the stand-in that the harness uses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import fakeredis
import pytest
import redis

import petiole.tasks.stores
from petiole.events import TextContent, TextMessageEvent
from petiole.events.catalog.memory import Fact, MemoryItem
from petiole.events.dead_letter import DeadLetter, FailedAttempt
from petiole.events.errors import PayloadUnreadable
from petiole.events.subscriptions import Subscription
from petiole.tasks.settings import Settings
from petiole.tasks.stores import Stores, open_stores
from petiole.tasks.stores.blobs import DATAREF, build_blob
from petiole.tasks.stores.circuits import CircuitOutcome, CircuitThresholds
from petiole.tasks.stores.dead_letters import DeadLetterRecord, ReplayStart
from petiole.tasks.stores.history import HISTORY_PAGE_SIZE, HistoryQuery, RecordedEvent
from petiole.tasks.stores.idempotency_records import BeginResult
from petiole.tasks.stores.rate_limits import Quota, RateLimitUsage
from petiole.tasks.stores.requests import Reply, ReplyRegistration
from tests.support.errors import has_code


@pytest.fixture(params=["fakeredis", "valkey"])
def client(request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    if request.param == "fakeredis":
        with fakeredis.FakeRedis(server=fakeredis.FakeServer(), decode_responses=True) as client:
            yield client
    else:
        with redis.Redis.from_url(request.getfixturevalue("clean_broker_url"), decode_responses=True) as client:
            yield client


@pytest.fixture
def stores(client: redis.Redis) -> Stores:
    return open_stores(client, Settings())


def an_event(text: str = "hi", **fields: object) -> TextMessageEvent:
    return TextMessageEvent.model_validate({"stream_id": "s", "content": TextContent(text=text)} | fields)


def a_subscription(name: str = "hear", *patterns: str) -> Subscription:
    return Subscription(agent="memory", function=name, patterns=patterns or ("input.*",))


def a_recollection(text: str, minute: int = 0) -> MemoryItem:
    said_at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)
    return MemoryItem(role="user", text=text, said_at=said_at)


def record(stores: Stores, event: TextMessageEvent) -> str:
    return stores.history.record(event, event.model_dump_json())


def texts(recorded: list[RecordedEvent]) -> list[str]:
    """Read what the recorded messages say."""
    messages = [TextMessageEvent.model_validate(each.document) for each in recorded]
    return [message.content.text for message in messages]


def test_an_announced_subscription_is_read_by_all(stores):
    stores.directory.register([a_subscription("one"), a_subscription("two")])

    version, subscriptions = stores.directory.read()

    assert [each.name for each in subscriptions] == ["memory.one", "memory.two"]
    assert version == stores.directory.version() == 1


def test_the_version_moves_only_when_something_changes(stores):
    assert stores.directory.register([a_subscription()])
    assert not stores.directory.register([a_subscription()])
    assert stores.directory.register([a_subscription("hear", "tools.*")])

    assert stores.directory.version() == 2


def test_a_withdrawn_subscription_is_gone(stores):
    stores.directory.register([a_subscription()])

    assert stores.directory.unregister("memory.hear")

    assert stores.directory.read() == (2, [])
    assert not stores.directory.unregister("memory.hear")


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


def test_history_is_capped_by_number(client):
    stores = open_stores(client, Settings(max_history_events=100))

    for number in range(150):
        record(stores, an_event(str(number)))

    assert texts(stores.history.read_after()) == [str(number) for number in range(50, 150)]


def test_history_is_capped_by_age(client):
    stores = open_stores(client, Settings(history_retention_s=3_600))
    age_history(client, stores, events=5, ago=timedelta(hours=1, seconds=1))
    age_history(client, stores, events=3, ago=timedelta(minutes=59), start=5)

    record(stores, an_event("new"))

    assert texts(stores.history.read_after()) == ["5", "6", "7", "new"]
    assert texts(stores.history.read_stream("s")) == ["new"]


@pytest.mark.parametrize("lowered", [{"max_history_events": 10}, {"history_retention_s": 1}])
def test_a_limit_that_was_lowered_is_reached_step_by_step(client, lowered):
    age_history(client, open_stores(client, Settings()), events=350, ago=timedelta(hours=1))
    stores = open_stores(client, Settings(**lowered))

    kept = []
    for _ in range(5):
        record(stores, an_event("new"))
        kept.append(client.xlen("petiole:history"))

    assert kept[:3] == [251, 152, 53]
    assert kept[-1] <= 10


def age_history(client: redis.Redis, stores: Stores, *, events: int, ago: timedelta, start: int = 0) -> None:
    """Put events into the history as if they had been recorded some time ago."""
    at_ms = int((datetime.now(UTC) - ago).timestamp() * 1_000)
    for number in range(events):
        event = an_event(str(start + number))
        client.xadd("petiole:history", {"event": event.model_dump_json()}, id=f"{at_ms}-{number}")


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


def test_a_marked_delivery_is_recognised(stores):
    stores.inbox.mark_handled("one")

    assert stores.inbox.is_handled("one")
    assert not stores.inbox.is_handled("another")


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
    fields = {"letter_id": "0", "delivery_id": f"replay-{number}"} | fields
    return ReplayStart(number=number, **fields)


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


def test_the_message_of_a_replay_goes_out_with_it_or_not_at_all(stores, client):
    for number in range(2):
        stores.dead_letters.put(a_letter(number))
    message = {"queue": "q", "queue_key": "q", "message": "…"}

    assert start(stores, a_start(1, **message)) == "started"
    assert start(stores, a_start(1, **message)) == "replaying"
    client.set("w", "not a list")
    with pytest.raises(redis.ResponseError, match="nothing was replayed"):
        start(stores, a_start(1, letter_id="1", queue="w", queue_key="w", message="…"))

    assert client.lrange("q", 0, -1) == ["…"]
    assert client.exists("q\x06\x16wakeup"), "whoever waits hears it"
    assert state_of(stores, "1") == "pending"


def test_an_ordered_replay_waits_for_its_turn_and_stands_there_once(stores, client):
    stores.dead_letters.put(a_letter())
    client.set("petiole:message_groups:m:active", "another")
    message = {"queue": "q", "queue_key": "q", "message": "…", "message_group": "m"}

    for _ in range(2):
        assert start(stores, a_start(1, **message), again_after=timedelta(0)) == "started"

    assert client.lrange("petiole:message_groups:m", 0, -1) == ["replay-1\nq\nq\n…"]
    assert client.hget("petiole:message_groups", "q") == "1"
    assert client.llen("q") == 0


def test_an_ordered_replay_that_is_first_does_not_wait(stores, client):
    stores.dead_letters.put(a_letter())
    message = {"queue": "q", "queue_key": "q", "message": "…", "message_group": "m"}

    for _ in range(2):
        assert start(stores, a_start(1, **message), again_after=timedelta(0)) == "started"

    assert client.get("petiole:message_groups:m:active") == "replay-1"
    assert client.lrange("q", 0, -1) == ["…", "…"], "a copy, which the inbox knows"
    assert client.llen("petiole:message_groups:m") == 0


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
    assert client.hlen("petiole:dead_letters:replays") == 0


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


def a_reference(content: object, **attributes: object) -> dict[str, object]:
    return {"event_type": "input.message.received", DATAREF: build_blob(content).reference} | attributes


def test_a_content_is_read_as_it_was_stored(stores):
    content = {"text": "ü \U0001f33f", "odd": [None, 1.5, {"deep": True}, 2**62]}
    stores.blobs.put([build_blob(content)])

    whole = stores.blobs.restore(a_reference(content, stream_id="s"))

    assert whole == {"event_type": "input.message.received", "stream_id": "s", "content": content}


def test_equal_contents_are_stored_once(stores, client):
    stores.blobs.put([build_blob({"text": "one"}), build_blob({"text": "one"}), build_blob({"text": "two"})])
    stores.blobs.put([build_blob({"text": "one"})])

    assert len(client.keys("petiole:blobs:*")) == 2


def test_a_content_that_is_gone_is_missed_by_name(stores):
    with pytest.raises(PayloadUnreadable, check=has_code("payload_missing"), match=r"input\.message\.received"):
        stores.blobs.restore(a_reference({"text": "never stored"}))


@pytest.mark.parametrize("altered", [b'{"text":"another"}', b"", b"\xff\xfe\x00", b'{"text":"one" }'])
def test_a_content_that_was_altered_is_recognised_and_mended_by_storing_it_again(stores, client, altered):
    stores.blobs.put([build_blob({"text": "one"})])
    (key,) = client.keys("petiole:blobs:*")
    client.set(key, altered)

    with pytest.raises(PayloadUnreadable, check=has_code("payload_altered"), match=r"input\.message\.received"):
        stores.blobs.restore(a_reference({"text": "one"}))

    stores.blobs.put([build_blob({"text": "one"})])
    assert stores.blobs.restore(a_reference({"text": "one"}))["content"] == {"text": "one"}


def test_a_content_stays_for_its_age_after_it_was_last_used(client):
    stores = open_stores(client, Settings(history_retention_s=10 * 86_400))
    stores.blobs.put([build_blob({"text": "one"})])
    (key,) = client.keys("petiole:blobs:*")
    stored_for_ms = client.pttl(key)
    client.pexpire(key, 60_000)

    stores.blobs.restore(a_reference({"text": "one"}))

    ten_days_ms = 10 * 86_400_000
    assert ten_days_ms - 60_000 < stored_for_ms <= ten_days_ms
    assert ten_days_ms - 60_000 < client.pttl(key) <= ten_days_ms


def test_a_content_stays_for_a_week_even_where_the_history_is_shorter(client):
    stores = open_stores(client, Settings(history_retention_s=60))

    stores.blobs.put([build_blob({"text": "one"})])

    (key,) = client.keys("petiole:blobs:*")
    assert client.pttl(key) > 7 * 86_400_000 - 60_000


@pytest.mark.parametrize("document", [{}, {"content": 1}, {DATAREF: "https://elsewhere.example/1"}, {DATAREF: 5}])
def test_an_object_without_a_reference_of_ours_is_left_as_it_is(stores, document):
    assert stores.blobs.restore(document) == document


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

    assert 290_000 < client.pttl("petiole:idempotency:charge:1") <= 300_000
    assert stores.idempotency_records.forget("charge:1")
    assert not stores.idempotency_records.forget("charge:1")
    assert begin(stores).state == "started"


def test_counts_add_up(stores):
    stores.counters.add("unrouted")
    stores.counters.add("unrouted", 2)

    assert stores.counters.all() == {"unrouted": 3}


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

    assert client.zrange("petiole:requests", 0, -1) == ["r-2"]


def test_a_gathering_keeps_the_first_of_each_part_and_none_after_it_was_closed(stores: Stores, client: redis.Redis):
    def add(part: int, text: str) -> str:
        return stores.aggregations.add("shop.offer", "k", part, text, part_count=3, timeout=timedelta(seconds=5))

    assert [add(0, "a"), add(0, "another a"), add(2, "c")] == ["incomplete"] * 3
    assert stores.aggregations.complete("shop.offer", "k") == {0: "a", 2: "c"}
    assert add(1, "b") == "completed"
    assert stores.aggregations.complete("shop.offer", "k") == {0: "a", 2: "c"}
    assert 0 < client.pttl("petiole:aggregations:shop.offer:k") <= 3_600_000


def test_whoever_brings_a_part_of_a_complete_gathering_is_told_so_also_when_brought_again(stores: Stores):
    def add(part: int) -> str:
        return stores.aggregations.add("shop.offer", "k", part, "x", part_count=2, timeout=timedelta(seconds=5))

    assert [add(0), add(1), add(1), add(0)] == ["incomplete", "complete", "complete", "complete"]


A_MINUTE = timedelta(minutes=1)


def test_of_many_that_fail_at_once_one_opens_the_circuit_and_of_many_that_ask_one_probes(stores):
    limits = CircuitThresholds(failures=5, reset_timeout=A_MINUTE, lease=A_MINUTE)

    def fail_together(_: int) -> str:
        admission = stores.circuits.request_permit("shop.stock", limits)
        are_in.wait(10)
        return str(stores.circuits.record_outcome("shop.stock", limits, admission.epoch or 0, "failed").transition)

    are_in = threading.Barrier(12)
    with ThreadPoolExecutor(12) as pool:
        changes = list(pool.map(fail_together, range(12)))
        assert sorted(changes) == [""] * 11 + ["opened"]
        stores.circuits._clock.skip(60)
        asked = list(pool.map(lambda _: stores.circuits.request_permit("shop.stock", limits), range(12)))

    assert [each.transition for each in asked if each.epoch is not None] == ["half_opened"]


@pytest.mark.parametrize(
    ("endings", "state"), [(["succeeded", "failed"] * 3, "open"), (["succeeded", "succeeded", "failed"] * 3, "closed")]
)
def test_a_circuit_opens_at_a_rate_of_failures(stores, endings: list[CircuitOutcome], state):
    limits = CircuitThresholds(
        failures=9, reset_timeout=A_MINUTE, lease=A_MINUTE, rate=0.5, window=A_MINUTE, min_calls=6
    )

    for ending in endings:
        epoch = stores.circuits.request_permit("shop.stock", limits).epoch or 0
        stores.circuits.record_outcome("shop.stock", limits, epoch, ending)

    (circuit,) = stores.circuits.all()
    assert circuit.state == state


def test_a_budget_is_never_overdrawn_however_many_reserve_at_once(stores):
    quota = Quota(requests=None, tokens=1_000, window=A_MINUTE, lease=A_MINUTE)

    with ThreadPoolExecutor(12) as pool:
        refusals = list(pool.map(lambda n: stores.rate_limits.reserve("main", f"call {n}", 90, quota), range(30)))

    assert refusals.count(None) == 11
    assert stores.rate_limits.usage("main") == RateLimitUsage(11, 990)


def test_what_was_reserved_is_settled_once_and_released_as_if_it_had_never_been(stores):
    quota = Quota(requests=5, tokens=1_000, window=A_MINUTE, lease=A_MINUTE)
    for call in ("one", "two"):
        assert stores.rate_limits.reserve("main", call, 400, quota) is None

    stores.rate_limits.release("main", "one")
    stores.rate_limits.release("main", "one")
    for _ in range(2):
        stores.rate_limits.settle("main", "two", 123, quota.window)

    assert stores.rate_limits.usage("main") == RateLimitUsage(1, 123)
    stores.rate_limits._clock.skip(61)
    assert stores.rate_limits.reserve("main", "three", 1_000, quota) is None
    assert stores.rate_limits.usage("main") == RateLimitUsage(1, 1_000)
