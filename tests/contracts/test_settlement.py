"""How an attempt is settled in one commit, on a real server and on fakeredis."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import redis

from petiole.tasks.stores.delayed_messages import CLAIM_TIMEOUT, MAX_MOVED, DelayedMessage
from petiole.tasks.stores.publications import Settlement
from tests.support.engine import Consumer, Engine, an_event, delivery_id_of

DELIVERY = "0192f0c1-7a5e-7cc3-98c8-3f1d2b6a9e10"


@pytest.fixture
def stores(engine):
    return engine.stores


@pytest.fixture
def client(engine):
    return engine.texts


@pytest.fixture
def one(engine: Engine) -> Consumer:
    return engine.consumer("one")


def recorded(engine: Engine) -> int:
    return len(engine.stores.history.read_after())


# Lost leases and lost answers


@pytest.mark.parametrize("lose", ["expired", "given back", "acknowledged"])
def test_an_attempt_whose_lease_was_lost_publishes_and_ends_nothing(engine, one, lose):
    engine.publish()
    fetched = one.fetch_one()
    if lose == "expired":
        engine.expire("one")
    elif lose == "given back":
        one.give_back("unread", fetched.tag)
    else:
        one.ack(fetched.tag)
    before = engine.inside.deliveries()

    result = one.settle(fetched, events=[engine.outgoing(an_event("output"))])

    assert result.status == "lease_lost"
    assert recorded(engine) == 1
    assert engine.inside.deliveries() == before
    assert engine.inside.leaks() == []


@pytest.mark.parametrize("outcome", ["handled", "retrying", "deferred", "dead_lettered"])
def test_a_settlement_that_is_repeated_gets_the_same_answer_and_changes_nothing(engine, one, outcome):
    output = [engine.outgoing(an_event("output"))]
    engine.publish(an_event("first"), "a group")
    engine.publish(an_event("second"), "a group")
    fetched = one.fetch_one()
    settlement = one.settlement(fetched, outcome)
    first = engine.stores.publications.publish(output, 0, settlement)
    before = engine.inside.deliveries()

    again = engine.stores.publications.publish(output, 0, settlement)

    assert first == again
    assert again.status == "published"
    assert again.are_new == (True,)
    assert engine.inside.deliveries() == before
    assert recorded(engine) == 3
    assert engine.inside.counts().get("dead_lettered", 0) == (outcome == "dead_lettered")
    assert engine.inside.leaks() == []


def test_a_refused_settlement_may_succeed_when_it_is_repeated(engine, one):
    engine.publish(an_event("in the way"), capacity=1)
    fetched = one.fetch_one()
    engine.publish(an_event("also"))
    output = [engine.outgoing(an_event("output"), capacity=1)]

    assert one.settle(fetched, events=output).status == "queue_full"
    (also,) = one.fetch()
    assert one.settle(fetched, events=output).status == "published"

    assert one.settle(also).status == "published"
    assert engine.places() == ["queue"]


def test_each_slot_has_its_own_last_answer(engine, one):
    engine.publish()
    engine.publish()
    mine, another = one.fetch(2)
    settlement = one.settlement(mine)
    publish = engine.stores.publications.publish
    assert publish([], 0, settlement).status == "published"

    in_thread = threading.Thread(target=one.settle, args=[another])
    in_thread.start()
    in_thread.join()

    assert publish([], 0, settlement).status == "published"
    assert engine.inside.deliveries() == []


def test_the_answers_of_a_lost_consumer_are_forgotten_with_it(engine, one):
    engine.publish()
    one.settle(one.fetch_one())
    assert engine.texts.exists(engine.keys.consumer_slots("one"))

    engine.expire("one")

    assert not engine.texts.exists(engine.keys.consumer_slots("one"))


def test_a_late_acknowledgement_of_an_earlier_taking_ends_nothing(engine, one):
    engine.publish()
    first = one.fetch_one()
    one.give_back("unread", first.tag)
    second = one.fetch_one()

    one.ack(first.tag)
    assert one.settle(first).status == "lease_lost"

    assert one.tags == [second.tag]
    assert engine.places() == ["lease"]
    assert one.settle(second).status == "published"


def test_an_acknowledgement_of_what_another_consumer_leases_ends_nothing(engine, one):
    engine.publish()
    fetched = one.fetch_one()
    engine.expire("one")
    two = engine.consumer("two")
    assert two.fetch_one().tag == fetched.tag

    one.ack(fetched.tag)
    assert one.give_back("unread", fetched.tag) == 0

    assert (one.tags, two.tags) == ([], [fetched.tag])


# A server without free memory


@contextmanager
def full(engine: Engine) -> Iterator[None]:
    """Let the server have no memory left."""
    for number in range(1_000):
        engine.raw.set(f"ballast {number}", "-" * 1_000)
    engine.raw.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(redis.OutOfMemoryError):
            engine.raw.set("more", "more")
        yield
    finally:
        engine.raw.config_set("maxmemory", "0")


def test_deliveries_are_fetched_and_ended_on_a_server_without_free_memory(server_engine):
    engine, one = server_engine, server_engine.consumer("one")
    one.retry_after = timedelta(0)
    for _ in range(8):
        engine.publish()
    with full(engine):
        with pytest.raises(redis.OutOfMemoryError):
            engine.publish()
        assert recorded(engine) == 8
        handled, retried, deferred, buried, returned, rejected, crashed, acked = one.fetch(8)
        one.commands.renew(1_000)
        for fetched, outcome in ((handled, "handled"), (retried, "retrying"), (deferred, "deferred")):
            assert one.settle(fetched, outcome).status == "published"
        assert one.settle(buried, "dead_lettered").status == "published"
        one.give_back("unread", returned.tag)
        one.give_back("last", rejected.tag)
        one.give_back("crashed", crashed.tag)
        one.ack(acked.tag)
        assert engine.places() == ["delayed"] * 2 + ["queue"] * 3
        assert engine.stores.delayed_messages.move_due() == 2
        assert engine.places() == ["queue"] * 5
        two = engine.consumer("two")
        assert len(two.fetch(10)) == 5
        assert engine.expire("two") == 5
        assert engine.inside.leaks() == []
        engine.end_everything()
    assert (engine.inside.deliveries(), engine.references) == ([], 0)


def test_a_suspect_begins_on_a_server_without_free_memory(server_engine):
    engine = server_engine
    engine.publish()
    engine.consumer("lost").fetch()
    engine.expire("lost")
    one = engine.consumer("one")
    lease = one.settlement(one.fetch_one()).lease
    with full(engine):
        answer = engine.stores.deliveries.begin(lease, is_marked=True, abortable=None)

    assert answer == "started"


# Messages of other Celery clients


def test_a_message_is_settled_once_and_remembered_in_the_inbox(engine, one):
    engine.send_message(1)
    fetched = one.fetch_one()

    answers = [one.settle(fetched, events=[engine.outgoing(an_event())]).status for _ in range(2)]

    assert answers == ["published", "already_settled"]
    assert engine.stores.inbox.is_handled(delivery_id_of(fetched))
    assert engine.places() == ["queue"], "that of its output"


def test_a_copy_of_a_handled_message_is_known(engine, one):
    for _ in range(2):
        engine.send_message(1)
    first, copy = one.fetch(2)
    one.settle(first)

    assert one.settle(copy).status == "already_settled"
    assert engine.stores.attempts.begin("1", "one").is_settled


def test_a_message_whose_lease_was_lost_is_not_settled(engine, one):
    engine.send_message(1)
    fetched = one.fetch_one()
    engine.expire("one")

    assert one.settle(fetched).status == "lease_lost"
    assert not engine.stores.inbox.is_handled("1")


def test_a_failed_attempt_of_a_message_is_recorded_scheduled_and_acknowledged_in_one_commit(engine, one):
    engine.send_message(1)
    fetched = one.fetch_one()
    engine.stores.attempts.begin("1", "one", consumer="one")

    one.settle(fetched, "retrying")

    assert engine.stores.delayed_messages.count() == 1
    assert [each.error for each in engine.stores.attempts.read("1")] == ["no"]
    assert engine.inside.unacknowledged() == 0
    assert not engine.stores.inbox.is_handled("1")
    assert engine.stores.attempts.begin("1", "two").number == 2


def test_a_deferred_message_uses_no_attempt(engine, one):
    engine.send_message(1)
    engine.stores.attempts.begin("1", "one")

    one.settle(one.fetch_one(), "deferred")

    assert engine.stores.attempts.begin("1", "two").number == 1


def test_dead_lettering_a_message_stores_the_letter_and_deletes_its_attempts(engine, one):
    engine.send_message(1)
    engine.stores.attempts.begin("1", "one")

    one.settle(one.fetch_one(), "dead_lettered", [engine.outgoing(an_event(), subscriptions=())])

    assert [letter.id for letter in engine.stores.dead_letters.all()] == ["1"]
    assert engine.stores.inbox.is_handled("1")
    assert engine.stores.attempts.read("1") == ()
    assert recorded(engine) == 1


# Attempts of messages


def test_no_attempt_begins_for_a_settled_message(stores):
    stores.inbox.mark_handled(DELIVERY)

    assert stores.attempts.begin(DELIVERY, "one").is_settled


def test_an_attempt_of_a_live_worker_counts_as_no_crash(engine, stores):
    engine.consumer("two")
    stores.attempts.begin(DELIVERY, "one", consumer="two")

    history = stores.attempts.begin(DELIVERY, "two", consumer="one")

    assert (history.crashes, history.is_poison) == (0, False)


def test_a_message_that_crashed_three_workers_is_poison(engine, stores):
    for number in range(3):
        engine.silent_for(60, dead := f"dead-{number}")
        assert not stores.attempts.begin(DELIVERY, dead, consumer=dead).is_poison

    history = stores.attempts.begin(DELIVERY, "one", consumer="one")

    assert (history.crashes, history.is_poison) == (3, True)
    assert [each.worker for each in history.earlier] == ["dead-0", "dead-1", "dead-2"]


def test_a_crashed_child_counts_as_a_crash_while_its_worker_lives(engine, stores):
    engine.consumer("one")
    stores.attempts.begin(DELIVERY, "one", consumer="one")
    stores.attempts.record_crash(DELIVERY)

    assert stores.attempts.begin(DELIVERY, "one", consumer="one").crashes == 1


def test_while_an_attempt_is_renewed_no_copy_begins_and_none_counts_as_a_crash(stores, eventually):
    stores.attempts.begin(DELIVERY, "one", lease=timedelta(seconds=0.2))
    stores.attempts.renew([DELIVERY], timedelta(seconds=60))

    left = stores.attempts.begin(DELIVERY, "two", lease=timedelta(seconds=60)).running_for
    stores.attempts.renew([DELIVERY], timedelta(seconds=0.05))

    assert timedelta(seconds=50) < left <= timedelta(seconds=60)
    eventually(lambda: stores.attempts.begin(DELIVERY, "two", lease=timedelta(seconds=60)).crashes == 1, 5)


def test_the_retry_of_an_attempt_need_not_wait_for_its_lease(engine, one):
    engine.send_message(1)
    fetched, lease = one.fetch_one(), timedelta(seconds=60)
    engine.stores.attempts.begin("1", "one", lease=lease)

    one.settle(fetched, "retrying")

    assert engine.stores.attempts.begin("1", "two", lease=lease).running_for is None


@pytest.mark.parametrize("end", ["discarded", "crashed"])
def test_the_end_of_an_attempt_ends_its_lease(end, stores):
    lease = timedelta(seconds=60)
    stores.attempts.begin(DELIVERY, "one", lease=lease)

    stores.attempts.discard_last(DELIVERY) if end == "discarded" else stores.attempts.record_crash(DELIVERY)

    assert stores.attempts.begin(DELIVERY, "two", lease=lease).running_for is None


def test_a_discarded_attempt_counts_for_nothing(stores):
    stores.attempts.begin(DELIVERY, "one")
    stores.attempts.discard_last(DELIVERY)

    history = stores.attempts.begin(DELIVERY, "two")

    assert (history.number, history.crashes) == (1, 0)


# The check before a handler starts


def test_a_handler_does_not_start_without_its_lease_or_after_an_abort(engine, one):
    engine.publish()
    lease = one.settlement(one.fetch_one()).lease
    begin, flow = engine.stores.deliveries.begin, ("memory", "a-flow")

    assert begin(lease, is_marked=False, abortable=flow) == "started"
    engine.texts.set(engine.keys.aborted(*flow), "1")
    assert begin(lease, is_marked=False, abortable=flow) == "aborted"
    assert begin(lease, is_marked=False, abortable=None) == "started"
    engine.expire("one")
    assert begin(lease, is_marked=True, abortable=None) == "lease_lost"
    assert engine.inside.leaks() == []


# Delayed messages


def a_delayed_message(
    due_in_s: float = 60, item_id: str = DELIVERY, said: str = "message", *, replaces: bool = True
) -> DelayedMessage:
    due = datetime.now(UTC) + timedelta(seconds=due_in_s)
    return DelayedMessage(item_id, due, "memory:wakeup", "memory", said, replaces=replaces)


def test_due_messages_move_to_their_queue_with_its_wake_up_key_and_others_wait(client, stores):
    stores.delayed_messages.put(a_delayed_message(-1, "due", "due"))
    stores.delayed_messages.put(a_delayed_message(60, "later", "later"))

    assert stores.delayed_messages.move_due() == 1

    assert client.lrange("memory", 0, -1) == ["due"]
    assert client.zcard("memory:wakeup") == 1
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


def test_a_replayed_letter_is_failed_again_or_resolved_and_only_by_its_last_replay(engine, one):
    engine.dead_letter()
    assert engine.letter_states() == {"a-letter": "pending"}
    letter = engine.dead_letter()
    assert engine.letter_states() == {"a-letter": "pending"}, "dead-lettered twice, not replayed"

    engine.replay(letter, 1)
    one.settle(one.fetch_one(), "dead_lettered")
    assert engine.letter_states() == {"a-letter": "failed_again"}

    engine.replay(letter, 2)
    fetched = one.fetch_one()
    late = Settlement(delivery_id="late", resolved_letter_id=letter.id, replay_number=1)
    engine.stores.publications.publish([], 0, late)
    assert engine.letter_states() == {"a-letter": "replaying"}, "that was an earlier replay"
    one.settle(fetched)
    assert engine.letter_states() == {"a-letter": "resolved"}


def test_a_letter_keeps_its_event_when_the_event_has_left_the_history(make_engine):
    engine = make_engine(max_history_events=32)
    one = engine.consumer()
    engine.publish()
    one.settle(one.fetch_one(), "dead_lettered")
    for number in range(150):
        engine.publish(an_event(str(number)), subscriptions=())

    (letter,) = engine.stores.dead_letters.all()
    engine.replay(letter)

    assert one.fetch_one().text.split(b"\n", 4)[-1]
