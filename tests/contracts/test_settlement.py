"""How an attempt is settled in one commit, on a real server and on fakeredis."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import fakeredis
import pytest
import redis

from petiole.events import TextContent, TextMessageEvent
from petiole.events.dead_letter import DeadLetter, FailedAttempt
from petiole.tasks.settings import Settings
from petiole.tasks.stores import Stores, open_stores
from petiole.tasks.stores.delayed_messages import CLAIM_TIMEOUT, MAX_MOVED, DelayedMessage
from petiole.tasks.stores.publications import Lease, OutgoingEvent, Settlement, UnackedKeys

KEYS = UnackedKeys()
LEASE = Lease(tag="tag-1", consumer="holder-1")
DELIVERY = "0192f0c1-7a5e-7cc3-98c8-3f1d2b6a9e10"


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
    """Provide stores beside a broker in which the consumer `holder-1` has leased one message."""
    client.hset(KEYS.unacked, LEASE.tag, "[message]")
    client.zadd(KEYS.index, {LEASE.tag: time.time()})
    client.hset(KEYS.leased, LEASE.tag, LEASE.consumer)
    client.zadd(KEYS.consumers, {LEASE.consumer: time.time()})
    return open_stores(client, Settings())


def an_outgoing_event() -> OutgoingEvent:
    event = TextMessageEvent(stream_id="s", content=TextContent(text="hi"))
    return OutgoingEvent(event, event.model_dump_json(), "", [])


def a_failed_attempt(error: str | None = "no", worker: str = "one") -> FailedAttempt:
    return FailedAttempt(at=datetime.now(UTC), worker=worker, error_type=error and "RuntimeError", error=error)


def a_letter(letter_id: str = DELIVERY) -> DeadLetter:
    return DeadLetter(
        id=letter_id,
        delivery_id=DELIVERY,
        subscription="memory.keep",
        queue="memory",
        cause="failed",
        error_type="RuntimeError",
        error="no",
        traceback="…",
        fingerprint="0",
        attempts=(a_failed_attempt(),),
        at=datetime.now(UTC),
    )


def a_delayed_message(
    due_in_s: float = 60, item_id: str = DELIVERY, said: str = "message", *, replaces: bool = True
) -> DelayedMessage:
    due = datetime.now(UTC) + timedelta(seconds=due_in_s)
    return DelayedMessage(item_id, due, "memory", "memory", said, replaces=replaces)


def recorded(stores: Stores) -> int:
    return len(list(stores.history.read_after()))


# Lost leases


def test_an_attempt_whose_lease_was_lost_publishes_and_marks_nothing(client, stores):
    client.hset(KEYS.leased, LEASE.tag, "holder-2")

    result = stores.publications.publish([an_outgoing_event()], 0, Settlement(delivery_id=DELIVERY, lease=LEASE))

    assert result.status == "lease_lost"
    assert recorded(stores) == 0
    assert not stores.inbox.is_handled(DELIVERY)
    assert client.hexists(KEYS.unacked, LEASE.tag)


def test_an_attempt_whose_message_was_requeued_publishes_nothing(client, stores):
    client.hdel(KEYS.leased, LEASE.tag)

    result = stores.publications.publish([an_outgoing_event()], 0, Settlement(delivery_id=DELIVERY, lease=LEASE))

    assert (result.status, recorded(stores)) == ("lease_lost", 0)


def test_a_delivery_with_a_valid_lease_is_settled_once(stores):
    settling = Settlement(delivery_id=DELIVERY, lease=LEASE)

    answers = [stores.publications.publish([an_outgoing_event()], 0, settling).status for _ in range(2)]

    assert answers == ["published", "already_settled"]
    assert recorded(stores) == 1


def test_a_delivery_is_settled_on_a_server_without_free_memory(client, stores):
    if isinstance(client, fakeredis.FakeRedis):
        pytest.skip("fakeredis has no memory limit")
    for number in range(1_000):
        client.set(f"ballast {number}", "-" * 1_000)
    client.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(redis.OutOfMemoryError):
            client.set("more", "more")
        assert not stores.attempts.begin(DELIVERY, "one").is_settled
        assert stores.publications.publish([], 0, Settlement(delivery_id=DELIVERY, lease=LEASE)).status == "published"
    finally:
        client.config_set("maxmemory", "0")
    assert stores.inbox.is_handled(DELIVERY)


# Retries


def test_a_failed_attempt_is_recorded_scheduled_and_acknowledged_in_one_commit(client, stores):
    stores.attempts.begin(DELIVERY, "one", consumer=LEASE.consumer, consumers_key=KEYS.consumers)

    stores.publications.publish(
        [],
        0,
        Settlement(
            delivery_id=DELIVERY,
            outcome="retrying",
            lease=LEASE,
            failed_attempt=a_failed_attempt(),
            retry_message=a_delayed_message(),
        ),
    )

    assert stores.delayed_messages.count() == 1
    assert [each.error for each in stores.attempts.read(DELIVERY)] == ["no"]
    assert not any(client.exists(key) for key in (KEYS.unacked, KEYS.index, KEYS.leased))
    assert not stores.inbox.is_handled(DELIVERY)
    assert stores.attempts.begin(DELIVERY, "two").number == 2


def test_a_deferred_delivery_uses_no_attempt(stores):
    stores.attempts.begin(DELIVERY, "one")

    stores.publications.publish(
        [], 0, Settlement(delivery_id=DELIVERY, outcome="deferred", lease=LEASE, retry_message=a_delayed_message())
    )

    assert stores.attempts.begin(DELIVERY, "two").number == 1


def test_dead_lettering_stores_the_letter_settles_the_delivery_and_deletes_its_attempts(stores):
    stores.attempts.begin(DELIVERY, "one")

    stores.publications.publish(
        [an_outgoing_event()],
        0,
        Settlement(delivery_id=DELIVERY, outcome="dead_lettered", lease=LEASE, letter=a_letter()),
    )

    assert [letter.id for letter in stores.dead_letters.all()] == [DELIVERY]
    assert stores.inbox.is_handled(DELIVERY)
    assert stores.attempts.read(DELIVERY) == ()
    assert recorded(stores) == 1


# Attempts


def test_no_attempt_begins_for_a_settled_delivery(stores):
    stores.inbox.mark_handled(DELIVERY)

    assert stores.attempts.begin(DELIVERY, "one").is_settled


def test_an_attempt_of_a_live_worker_counts_as_no_crash(client, stores):
    client.zadd(KEYS.consumers, {"holder-2": time.time()})
    stores.attempts.begin(DELIVERY, "one", consumer="holder-2", consumers_key=KEYS.consumers)

    history = stores.attempts.begin(DELIVERY, "two", consumer=LEASE.consumer, consumers_key=KEYS.consumers)

    assert (history.crashes, history.is_poison) == (0, False)


def test_a_delivery_that_crashed_three_workers_is_poison(client, stores):
    for number in range(3):
        dead = f"dead-{number}"
        client.zadd(KEYS.consumers, {dead: time.time() - 60})
        assert not stores.attempts.begin(DELIVERY, dead, consumer=dead, consumers_key=KEYS.consumers).is_poison

    history = stores.attempts.begin(DELIVERY, "one", consumer=LEASE.consumer, consumers_key=KEYS.consumers)

    assert (history.crashes, history.is_poison) == (3, True)
    assert [each.worker for each in history.earlier] == ["dead-0", "dead-1", "dead-2"]


def test_a_crashed_child_counts_as_a_crash_while_its_worker_lives(stores):
    lease = {"consumer": LEASE.consumer, "consumers_key": KEYS.consumers}
    stores.attempts.begin(DELIVERY, "one", **lease)
    stores.attempts.record_crash(DELIVERY)

    assert stores.attempts.begin(DELIVERY, "one", **lease).crashes == 1


def record_fetch(client, consumer):
    """Record an attempt as the fetch command does."""
    run = {"at": datetime.now(UTC).isoformat(), "worker": consumer, "consumer": consumer, "is_fetched": True}
    client.rpush(f"petiole:attempts:{DELIVERY}", json.dumps(run))


def begin_by(stores, consumer, max_crashes=3):
    return stores.attempts.begin(
        DELIVERY, consumer, consumer=consumer, consumers_key=KEYS.consumers, max_crashes=max_crashes
    )


def test_a_delivery_recorded_at_its_fetch_is_poison_after_three_crashes_too(client, stores):
    record_fetch(client, "dead-0")
    for number in (1, 2):
        assert not begin_by(stores, f"dead-{number}").is_poison

    history = begin_by(stores, LEASE.consumer)

    assert (history.crashes, history.is_poison) == (3, True)
    assert [each.worker for each in history.earlier] == ["dead-0", "dead-1", "dead-2"]


@pytest.mark.parametrize("max_crashes", [1, 2, 3])
def test_a_message_prefetched_by_a_crashed_worker_counts_as_no_crash(client, stores, max_crashes):
    record_fetch(client, "dead-0")

    history = begin_by(stores, LEASE.consumer, max_crashes)

    assert (history.number, history.crashes, history.is_poison, history.earlier) == (1, 0, False, ())


def test_an_attempt_replaces_the_record_of_its_fetch(client, stores):
    record_fetch(client, LEASE.consumer)

    begin_by(stores, LEASE.consumer)

    assert len(stores.attempts.read(DELIVERY)) == 1
    client.zrem(KEYS.consumers, LEASE.consumer)
    assert begin_by(stores, "two").crashes == 1


def test_a_child_that_crashes_in_a_fetched_delivery_counts_as_a_crash(client, stores):
    record_fetch(client, LEASE.consumer)

    stores.attempts.record_crash(DELIVERY)

    assert begin_by(stores, LEASE.consumer).crashes == 1


def test_a_discarded_attempt_counts_for_nothing(stores):
    stores.attempts.begin(DELIVERY, "one")
    stores.attempts.discard_last(DELIVERY)

    history = stores.attempts.begin(DELIVERY, "two")

    assert (history.number, history.crashes) == (1, 0)


# Delayed messages


def test_due_messages_move_to_their_queue_with_its_wake_up_key_and_others_wait(client, stores):
    stores.delayed_messages.put(a_delayed_message(-1, "due", "due"))
    stores.delayed_messages.put(a_delayed_message(60, "later", "later"))

    assert stores.delayed_messages.move_due() == 1

    assert client.lrange("memory", 0, -1) == ["due"]
    assert client.zcard("memory\x06\x16wakeup") == 1
    assert list(stores.delayed_messages.due_times()) == ["later"]
    assert stores.delayed_messages.move_due() == 0


def test_messages_move_in_the_order_of_their_due_times_and_in_bounded_steps(client, stores):
    for number in range(MAX_MOVED + 5):
        stores.delayed_messages.put(a_delayed_message(-1000 + number, str(number), str(number)))

    assert [stores.delayed_messages.move_due(), stores.delayed_messages.move_due()] == [MAX_MOVED, 5]

    assert client.lrange("memory", 0, -1)[::-1] == [str(number) for number in range(MAX_MOVED + 5)]


def test_a_delayed_message_is_stored_once_and_changed_only_by_a_replacement(stores):
    stores.delayed_messages.put(a_delayed_message(60, said="first"))
    stores.delayed_messages.put(a_delayed_message(1, said="second", replaces=False))
    assert stores.delayed_messages.claim_due(ahead=timedelta(seconds=10)) == []

    stores.delayed_messages.put(a_delayed_message(1, said="third"))

    assert [each.message for each in stores.delayed_messages.claim_due(ahead=timedelta(seconds=10))] == ["third"]


def test_a_claimed_message_that_was_not_sent_is_claimed_again_and_a_sent_one_is_not(stores):
    for item in ("sent", "unsent"):
        stores.delayed_messages.put(a_delayed_message(-1, item))
    claimed = {each.id: each for each in stores.delayed_messages.claim_due()}
    assert claimed.keys() == {"sent", "unsent"}
    assert stores.delayed_messages.claim_due() == []

    stores.delayed_messages.confirm_sent(claimed["sent"])

    assert [each.id for each in stores.delayed_messages.claim_due(ahead=2 * CLAIM_TIMEOUT)] == ["unsent"]


def test_a_message_that_is_scheduled_again_before_its_confirmation_is_kept(stores):
    stores.delayed_messages.put(a_delayed_message(-1, said="first run"))
    (claimed,) = stores.delayed_messages.claim_due()
    stores.delayed_messages.put(a_delayed_message(-1, said="second run"))

    stores.delayed_messages.confirm_sent(claimed)

    assert [each.message for each in stores.delayed_messages.claim_due()] == ["second run"]


def test_a_delayed_event_is_stored_in_the_commit_that_settles(stores):
    stores.publications.publish([], 0, Settlement(delivery_id=DELIVERY), [a_delayed_message(60, "publish:1")])

    assert stores.inbox.is_handled(DELIVERY)
    assert list(stores.delayed_messages.due_times()) == ["publish:1"]


# Dead letters


def test_a_replayed_letter_is_failed_again_or_resolved(client, stores):
    states = "petiole:dead_letters:states"
    stores.dead_letters.put(a_letter())
    assert client.hget(states, DELIVERY) == "pending"
    stores.dead_letters.put(a_letter())
    assert client.hget(states, DELIVERY) == "pending", "dead-lettered twice, not replayed"

    client.hset(states, DELIVERY, "replaying")
    client.hset("petiole:dead_letters:replays", DELIVERY, "1 0 operator")
    stores.publications.publish(
        [], 0, Settlement(delivery_id="r1", outcome="dead_lettered", letter=a_letter(), resolved_letter_id=DELIVERY)
    )
    assert client.hget(states, DELIVERY) == "failed_again"

    client.hset(states, DELIVERY, "replaying")
    client.hset("petiole:dead_letters:replays", DELIVERY, "2 0 operator")
    stores.publications.publish([], 0, Settlement(delivery_id="late", resolved_letter_id=DELIVERY, replay_number=1))
    assert client.hget(states, DELIVERY) == "replaying", "that was an earlier replay"
    stores.publications.publish([], 0, Settlement(delivery_id="r2", resolved_letter_id=DELIVERY, replay_number=2))
    assert client.hget(states, DELIVERY) == "resolved"
