"""Where a delivery stands after each step: in one place, with one reference to its event, or nowhere and without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from petiole.events.event import Event
from petiole.tasks.stores.clock import ServerClock
from petiole.tasks.stores.deliveries import QueueEntry
from petiole.tasks.transport.commands import Fetched
from tests.support.engine import KEEP, QUEUE, Consumer, Engine, an_event, event_id_of

GROUP = "memory.keep:a key"


@dataclass
class Story:
    """One delivery under test, whose event is the first that was published or the letter's."""

    engine: Engine
    one: Consumer
    taken: list[Fetched] = field(default_factory=list)

    @property
    def tag(self) -> str:
        return self.taken[0].tag


# States


def queued(story: Story) -> None:
    story.engine.publish(capacity=1)


def leased(story: Story) -> None:
    queued(story)
    story.taken = story.one.fetch()


def leased_before_another(story: Story) -> None:
    """The first of a message group is leased, and the second waits."""
    story.engine.publish(an_event("first"), GROUP)
    story.engine.publish(an_event("second"), GROUP)
    story.taken = story.one.fetch(2)
    assert len(story.taken) == 1


def waiting_in_a_group(story: Story) -> None:
    """The first of a message group is queued, and the second waits."""
    story.engine.publish(an_event("first"), GROUP)
    story.engine.publish(an_event("second"), GROUP)


def delayed(story: Story) -> None:
    leased(story)
    story.one.settle(story.taken[0], "retrying")


def delayed_before_another(story: Story) -> None:
    leased_before_another(story)
    story.one.settle(story.taken[0], "retrying")


def dead_lettered(story: Story) -> None:
    story.engine.dead_letter()


def dead_lettered_behind_another(story: Story) -> None:
    story.engine.publish(an_event("first"), GROUP)
    story.engine.dead_letter(GROUP)


def replayed(story: Story) -> None:
    assert story.engine.replay(story.engine.dead_letter()) == "started"


def replayed_and_leased(story: Story) -> None:
    replayed(story)
    story.taken = story.one.fetch()


def replayed_and_leased_before_another(story: Story) -> None:
    assert story.engine.replay(story.engine.dead_letter(GROUP)) == "started"
    story.engine.publish(an_event("second"), GROUP)
    story.taken = story.one.fetch(2)


def replayed_behind_another(story: Story) -> None:
    dead_lettered_behind_another(story)
    assert replay(story) == "started"


def gone(story: Story) -> None:
    leased(story)
    handle(story)


# Steps


def fetch(story: Story) -> None:
    story.taken = story.one.fetch(10)


def acknowledge(story: Story) -> None:
    """As for what was revoked, expired, ignored or rejected; or handled with no output."""
    story.one.ack(story.tag)


def handle(story: Story) -> None:
    assert story.one.settle(story.taken[0]).status == "published"


def handle_with_output(story: Story) -> None:
    output = story.engine.outgoing(an_event("output"), subscriptions=())
    assert story.one.settle(story.taken[0], events=[output]).are_new == (True,)


def retry(story: Story) -> None:
    assert story.one.settle(story.taken[0], "retrying").status == "published"


def defer(story: Story) -> None:
    assert story.one.settle(story.taken[0], "deferred").status == "published"


def dead_letter(story: Story) -> None:
    assert story.one.settle(story.taken[0], "dead_lettered").status == "published"


def reject_and_requeue(story: Story) -> None:
    assert story.one.give_back("last", story.tag) == 1


def give_back_unread(story: Story) -> None:
    assert story.one.give_back("unread", story.tag) == 1


def crash(story: Story) -> None:
    assert story.one.give_back("crashed", story.tag) == 1


def lose_the_consumer(story: Story) -> None:
    assert story.engine.expire("one") == len(story.taken)


def publish_beyond_capacity(story: Story) -> None:
    story.engine.publish(an_event("newer"), subscriptions=["memory.another"], capacity=1, drops_oldest=True)


def purge(story: Story) -> None:
    groups = story.engine.stores.message_groups
    groups.clear(KEEP)
    groups.remove_queued(KEEP.name, groups.queue_lists(QUEUE))


def be_due(story: Story) -> None:
    story.engine.make_due()


def replay(story: Story) -> str:
    (letter,) = story.engine.stores.dead_letters.all()
    return story.engine.replay(letter)


Step = Callable[[Story], object]


@dataclass(frozen=True)
class Cell:
    """A state, a step, and what is true after it: the places of all deliveries, and the state of the letter."""

    state: Step
    step: Step
    places: str = ""
    references: int = 0
    letters: str = ""

    def __str__(self) -> str:
        return f"{self.state.__name__}-{self.step.__name__}"


TABLE = [
    Cell(queued, fetch, "lease", 1),
    Cell(queued, publish_beyond_capacity, "queue", 1),
    Cell(queued, purge),
    Cell(leased, acknowledge),
    Cell(leased, handle),
    Cell(leased, handle_with_output),
    Cell(leased, retry, "delayed", 1),
    Cell(leased, defer, "delayed", 1),
    Cell(leased, dead_letter, letters="pending"),
    Cell(leased, reject_and_requeue, "queue", 1),
    Cell(leased, give_back_unread, "queue", 1),
    Cell(leased, crash, "queue", 1),
    Cell(leased, lose_the_consumer, "queue", 1),
    Cell(leased, publish_beyond_capacity, "lease queue", 2),
    Cell(leased, purge, "lease", 1),
    Cell(leased_before_another, acknowledge, "queue", 1),
    Cell(leased_before_another, handle, "queue", 1),
    Cell(leased_before_another, handle_with_output, "queue", 1),
    Cell(leased_before_another, retry, "delayed group", 2),
    Cell(leased_before_another, defer, "delayed group", 2),
    Cell(leased_before_another, dead_letter, "queue", 1, "pending"),
    Cell(leased_before_another, reject_and_requeue, "group queue", 2),
    Cell(leased_before_another, give_back_unread, "group queue", 2),
    Cell(leased_before_another, crash, "group queue", 2),
    Cell(leased_before_another, lose_the_consumer, "group queue", 2),
    Cell(leased_before_another, purge, "lease", 1),
    Cell(delayed, be_due, "queue", 1),
    Cell(delayed, purge, "delayed", 1),
    Cell(delayed_before_another, be_due, "group queue", 2),
    Cell(delayed_before_another, purge, "delayed", 1),
    Cell(waiting_in_a_group, fetch, "group lease", 2),
    Cell(waiting_in_a_group, publish_beyond_capacity, "queue", 1),
    Cell(waiting_in_a_group, purge),
    Cell(dead_lettered, replay, "queue", letters="replaying"),
    Cell(dead_lettered_behind_another, replay, "group queue", 1, "replaying"),
    Cell(replayed, fetch, "lease", letters="replaying"),
    Cell(replayed, replay, "queue", letters="replaying"),
    Cell(replayed, publish_beyond_capacity, "queue", 1, "failed_again"),
    Cell(replayed, purge, letters="failed_again"),
    Cell(replayed_behind_another, purge, letters="failed_again"),
    Cell(replayed_and_leased, acknowledge, letters="failed_again"),
    Cell(replayed_and_leased, handle, letters="resolved"),
    Cell(replayed_and_leased, handle_with_output, letters="resolved"),
    Cell(replayed_and_leased, retry, "delayed", letters="replaying"),
    Cell(replayed_and_leased, defer, "delayed", letters="replaying"),
    Cell(replayed_and_leased, dead_letter, letters="failed_again"),
    Cell(replayed_and_leased, reject_and_requeue, "queue", letters="replaying"),
    Cell(replayed_and_leased, give_back_unread, "queue", letters="replaying"),
    Cell(replayed_and_leased, crash, "queue", letters="replaying"),
    Cell(replayed_and_leased, lose_the_consumer, "queue", letters="replaying"),
    Cell(replayed_and_leased, replay, "lease", letters="replaying"),
    Cell(replayed_and_leased, purge, "lease", letters="replaying"),
    Cell(replayed_and_leased_before_another, handle, "queue", 1, "resolved"),
    Cell(replayed_and_leased_before_another, acknowledge, "queue", 1, "failed_again"),
    Cell(replayed_and_leased_before_another, dead_letter, "queue", 1, "failed_again"),
    Cell(gone, acknowledge),
    Cell(gone, lambda story: story.one.give_back("unread", story.tag)),
    Cell(gone, lambda story: story.one.settle(story.taken[0])),
    Cell(gone, purge),
]


@pytest.mark.parametrize("cell", TABLE, ids=str)
def test_a_delivery_is_in_one_place_after_each_step_and_leaves_nothing_when_it_has_ended(engine, cell):
    story = Story(engine, engine.consumer("one"))
    cell.state(story)
    assert engine.inside.leaks() == []

    cell.step(story)

    assert (engine.places(), engine.references) == (cell.places.split(), cell.references)
    assert " ".join(engine.letter_states().values()) == cell.letters
    assert engine.inside.leaks() == []
    engine.end_everything()
    assert (engine.inside.deliveries(), engine.references, engine.inside.leaks()) == ([], 0, [])
    assert not engine.inside.ordered_active()


# What an entry carries


def crashes_of(engine: Engine) -> list[int | None]:
    return [each.entry.crashes for each in engine.inside.deliveries()]


@pytest.mark.parametrize(
    ("step", "crashes"),
    [(reject_and_requeue, 0), (give_back_unread, None), (crash, 1), (lose_the_consumer, 0), (retry, None)],
)
def test_only_what_crashed_a_process_counts_a_crash(engine, step, crashes):
    story = Story(engine, engine.consumer("one"))
    leased(story)

    step(story)

    assert crashes_of(engine) == [crashes]


def test_a_lost_consumer_makes_all_of_its_deliveries_suspect_and_counts_a_crash_of_those_that_had_begun(engine):
    one, two = engine.consumer("one"), engine.consumer("two")
    for number in range(3):
        engine.publish(an_event(str(number)))
    one.fetch(3)
    engine.expire("one")
    assert crashes_of(engine) == [0, 0, 0]
    suspects = two.fetch(3)

    begin(engine, two, suspects[0].tag)
    engine.expire("two")

    assert [each.entry.crashes for each in engine.inside.deliveries()] == [1, 0, 0]
    third = engine.consumer("three")
    begin(engine, third, third.fetch_one().tag)
    engine.expire("three")
    assert crashes_of(engine) == [2, 0, 0]


def begin(engine: Engine, consumer: Consumer, tag: str) -> None:
    lease = consumer.settlement(a_fetched(consumer, tag)).lease
    assert lease is not None
    assert engine.stores.deliveries.begin(lease, is_marked=True, abortable=None) == "started"


def a_fetched(consumer: Consumer, tag: str) -> Fetched:
    leased = consumer.commands.read_leased(tag)
    assert leased is not None
    return Fetched(QUEUE, tag, leased.partition(b"\n")[2], b'{"event_id":"%s"}' % (b"0" * 32))


def test_a_crash_of_a_process_ends_the_mark_that_its_delivery_had_begun(engine):
    one = engine.consumer("one")
    engine.publish()
    engine.inside.deliveries()
    one.fetch()
    engine.expire("one")
    two = engine.consumer("two")
    suspect = two.fetch_one()
    begin(engine, two, suspect.tag)

    two.give_back("crashed", suspect.tag)
    again = two.fetch_one()
    engine.expire("two")

    assert again.tag != suspect.tag
    assert crashes_of(engine) == [1], "not counted twice"


@pytest.mark.parametrize("end", [acknowledge, handle, retry, dead_letter])
def test_the_mark_that_a_delivery_had_begun_ends_with_its_lease(engine, end):
    engine.publish()
    engine.consumer("lost").fetch()
    engine.expire("lost")
    story = Story(engine, engine.consumer("one"))
    story.taken = story.one.fetch()
    begin(engine, story.one, story.tag)

    end(story)

    assert engine.inside.leaks() == []


def test_a_retry_carries_the_failed_attempts_and_the_crashes(engine):
    engine.publish()
    one = engine.consumer("one")
    one.give_back("crashed", one.fetch_one().tag)

    for _ in range(2):
        one.settle(one.fetch_one(), "retrying")
        engine.make_due()

    (delivery,) = engine.inside.deliveries()
    assert (len(delivery.entry.options["attempts"]), delivery.entry.crashes) == (2, 1)


# Order


def test_deliveries_of_a_message_group_are_fetched_one_by_one_in_the_order_of_their_publication(engine):
    events = [engine.publish(an_event(str(number)), GROUP) for number in range(4)]
    one = engine.consumer()
    taken = []

    for settle in (one.settle, lambda each: one.ack(each.tag), one.settle, one.settle):
        (fetched,) = one.fetch(10)
        taken.append(event_id_of(fetched))
        settle(fetched)

    assert taken == [event.event_id for event in events]
    assert engine.inside.deliveries() == []


def test_what_is_given_back_unread_is_fetched_first_and_in_order(engine):
    events = [engine.publish(an_event(str(number))) for number in range(4)]
    one = engine.consumer()

    one.give_back("unread", *(each.tag for each in one.fetch(3)))

    assert [event_id_of(each) for each in one.fetch(4)] == [event.event_id for event in events]


def test_what_a_lost_consumer_leased_is_fetched_first_and_in_order(engine):
    events = [engine.publish(an_event(str(number))) for number in range(12)]
    engine.consumer("one").fetch(11)

    engine.expire("one")

    assert [event_id_of(each) for each in engine.consumer("two").fetch(12)] == [event.event_id for event in events]


def test_a_rejected_delivery_is_fetched_last(engine):
    events = [engine.publish(an_event(str(number))) for number in range(3)]
    one = engine.consumer()

    one.give_back("last", one.fetch_one().tag)

    assert [event_id_of(each) for each in one.fetch(3)] == [event.event_id for event in events[1:] + events[:1]]


def test_a_fetch_wakes_the_next_consumer_only_if_it_leaves_something(engine):
    for _ in range(3):
        engine.publish()
    wakeup, one = f"{engine.keys.queue(QUEUE)}:wakeup", engine.consumer()

    assert len(one.fetch(2)) == 2
    assert engine.texts.exists(wakeup)

    assert len(one.fetch(2)) == 1
    assert not engine.texts.exists(wakeup)


def test_what_returns_to_an_empty_queue_wakes_a_consumer(engine):
    one = engine.consumer()
    for way in ("unread", "last", "crashed"):
        engine.publish(an_event(way))
        fetched = one.fetch_one()
        one.fetch()  # finds nothing, and so the queue's wake-up is gone
        assert not engine.texts.exists(f"{engine.keys.queue(QUEUE)}:wakeup")

        one.give_back(way, fetched.tag)

        assert engine.texts.exists(f"{engine.keys.queue(QUEUE)}:wakeup")
        one.settle(one.fetch_one())


# Repeats


def test_an_event_that_is_published_again_is_skipped(engine):
    event = engine.publish()

    assert engine.try_publish(event).are_new == (False,)
    assert engine.stores.publications.publish([engine.outgoing(event)] * 2, 0).are_new == (False, False)

    assert (engine.places(), engine.references) == (["queue"], 1)


@pytest.mark.parametrize("end", [acknowledge, handle, dead_letter])
def test_an_event_that_is_published_again_after_its_delivery_ended_is_skipped(engine, end):
    event = an_event()
    engine.publish(event)
    story = Story(engine, engine.consumer("one"))
    story.taken = story.one.fetch()
    end(story)

    assert engine.try_publish(event).are_new == (False,)

    assert engine.places() == []


def test_an_event_that_one_call_has_twice_is_published_once(engine):
    outgoing = engine.outgoing(an_event())

    assert engine.stores.publications.publish([outgoing, outgoing], 0).are_new == (True, False)

    assert (engine.places(), engine.references) == (["queue"], 1)
    assert engine.inside.leaks() == []


def test_an_event_is_known_for_at_least_one_window_and_forgotten_after_two(make_engine, monkeypatch):
    engine = make_engine(deduplication_window_s=100)
    clock = [1_000_050.0]
    monkeypatch.setattr(ServerClock, "time_s", lambda _: clock[0])
    event = engine.publish()

    clock[0] += 100
    assert engine.try_publish(event).are_new == (False,)
    clock[0] += 100
    assert engine.try_publish(event).are_new == (True,)


def test_a_replay_of_a_letter_that_is_started_again_puts_no_second_entry(engine):
    letter = engine.dead_letter()
    one = engine.consumer()

    assert [engine.replay(letter), engine.replay(letter), engine.replay(letter, 2)] == [
        "started",
        "replaying",
        "replaying",
    ]
    assert engine.places() == ["queue"]
    one.settle(one.fetch_one(), "dead_lettered")
    assert [engine.replay(letter), engine.replay(letter, 2)] == ["replayed_meanwhile", "started"]
    one.settle(one.fetch_one())
    assert [engine.replay(letter, 2), engine.replay(letter, 3)] == ["resolved", "resolved"]

    assert engine.places() == []


def test_a_retry_of_an_event_that_was_published_again_long_after_takes_the_place_of_the_one_that_waits(engine):
    one, event = engine.consumer(), an_event()
    for _ in range(2):
        engine.publish(event)
        one.settle(one.fetch_one(), "retrying")
        engine.inside.forget_publications()

    assert (engine.places(), engine.references, engine.inside.leaks()) == (["delayed"], 1, [])


def test_a_raw_replay_that_is_given_back_is_queued_again(engine):
    where, body = f"{engine.keys.queue(QUEUE)}:0", b'{"headers": {}, "properties": {}}'
    engine.raw.lpush(where, QueueEntry("", "", body=body).text)
    one = engine.consumer()

    for way in ("unread", "last", "crashed"):
        fetched = one.fetch_one()
        assert fetched.message == body
        assert one.give_back(way, fetched.tag) == 1

    assert engine.places() == ["queue"]
    assert not engine.raw.exists("")


def test_a_purge_of_many_deliveries_leaves_those_of_others_in_their_order(server_engine):
    events = []
    for number in range(1_100):
        event = server_engine.publish(
            an_event(str(number)), subscriptions=[KEEP.name if number % 3 else "memory.another"]
        )
        events += [] if number % 3 else [event.event_id]

    groups = server_engine.stores.message_groups
    assert groups.remove_queued(KEEP.name, groups.queue_lists(QUEUE)) == 733

    assert server_engine.references == len(events)
    assert [event_id_of(each) for each in server_engine.consumer().fetch(1_100)] == events


# The event in the history


def fill_history(engine: Engine, count: int = 300) -> None:
    for number in range(count):
        engine.publish(an_event(f"filler {number}"), subscriptions=())


def stored(engine: Engine, event: Event) -> bool:
    return event.event_id in {row.attributes["event_id"] for row in engine.stores.history.read_after(count=10_000)}


@pytest.mark.parametrize("place", [queued, leased, delayed, waiting_in_a_group])
def test_an_event_stays_in_the_history_while_a_delivery_refers_to_it(make_engine, place):
    engine = make_engine(max_history_events=32)
    story = Story(engine, engine.consumer("one"))
    place(story)

    fill_history(engine)

    assert engine.inside.leaks() == []
    assert engine.texts.hlen(f"{engine.keys.history}:kept") == 1
    engine.end_everything()
    assert not engine.texts.exists(f"{engine.keys.history}:kept", f"{engine.keys.history}:references")
    assert engine.inside.leaks() == []


def test_an_old_event_goes_with_the_last_reference_to_its_block_and_its_publication_stays_known(make_engine):
    engine = make_engine(max_history_events=32)
    first, second = engine.publish(subscriptions=["memory.keep", "memory.learn"]), engine.publish()
    fill_history(engine)
    one = engine.consumer()
    three = one.fetch(3)

    for fetched in three[:2]:
        one.settle(fetched)
        assert stored(engine, first)
        assert stored(engine, second)
    one.ack(three[2].tag)

    assert not stored(engine, first)
    assert not stored(engine, second)
    assert [engine.try_publish(event).are_new for event in (first, second)] == [(False,), (False,)]
    assert engine.references == 0


def test_blocks_between_two_old_ones_that_are_referred_to_are_deleted(make_engine):
    engine = make_engine(max_history_events=32)
    first = engine.publish()
    fill_history(engine, 100)
    second = engine.publish()

    fill_history(engine)

    assert (stored(engine, first), stored(engine, second)) == (True, True)
    assert engine.texts.xlen(engine.keys.history) <= 5 * 32 + 2 * 32
    one = engine.consumer()
    one.ack(*(each.tag for each in one.fetch(2)))
    assert (stored(engine, first), stored(engine, second)) == (False, False)


# Capacity


def test_a_queue_that_drops_its_oldest_holds_no_more_than_its_capacity(engine):
    events = [engine.publish(an_event(str(number)), capacity=2, drops_oldest=True) for number in range(5)]

    assert [event_id_of(each) for each in engine.consumer().fetch(5)] == [event.event_id for event in events[3:]]
    assert engine.references == 2
    assert engine.inside.counts()[f"dropped_oldest:{QUEUE}"] == 3


def test_an_event_to_two_subscriptions_of_a_queue_that_holds_one_leaves_one_delivery(engine):
    engine.publish(subscriptions=["memory.keep", "memory.learn"], capacity=1, drops_oldest=True)

    assert (engine.places(), engine.references, engine.inside.leaks()) == (["queue"], 1, [])


def test_a_full_queue_counts_what_waits_in_message_groups_and_not_what_is_leased(engine):
    for number in range(3):
        engine.publish(an_event(str(number)), GROUP)
    engine.consumer().fetch()

    assert engine.try_publish(an_event(), capacity=2).full_queue == QUEUE
    assert engine.try_publish(an_event(), capacity=3).status == "published"
    assert engine.references == 4


def test_dropping_the_first_of_a_message_group_lets_the_next_follow(engine):
    second = [engine.publish(an_event(str(number)), GROUP, capacity=2, drops_oldest=True) for number in range(3)][1]

    assert engine.places() == ["group", "queue"]
    assert event_id_of(engine.consumer().fetch_one()) == second.event_id
    assert engine.inside.leaks() == []


# Quarantine


def test_a_message_in_quarantine_is_not_leased_and_one_that_is_not_leased_is_there_too(engine):
    message = engine.send_message()
    one = engine.consumer()
    fetched = one.fetch_one()

    one.commands.quarantine(fetched)

    assert one.commands.first_undecodable() == QUEUE.encode() + b"\n" + message
    assert (one.tags, engine.inside.leaks()) == ([], [])


def test_a_replay_in_quarantine_has_failed_again(engine):
    engine.replay(engine.dead_letter())
    one = engine.consumer()

    one.commands.quarantine(one.fetch_one())

    assert engine.letter_states() == {"a-letter": "failed_again"}
    assert engine.inside.leaks() == []
