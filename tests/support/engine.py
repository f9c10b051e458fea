"""Deliveries as the scripts of a Redis broker move them, step by step: publish, fetch, settle, expire."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
from kombu.transport.redis import Channel

from petiole.events import TextContent, TextMessageEvent
from petiole.events.dead_letter import DeadLetter, FailedAttempt
from petiole.events.event import Event
from petiole.events.ids import delivery_ids, letter_delivery_id
from petiole.events.subscriptions import Subscription
from petiole.tasks.settings import Settings
from petiole.tasks.stores import open_stores
from petiole.tasks.stores.dead_letters import ReplayStart
from petiole.tasks.stores.delayed_messages import DelayedMessage
from petiole.tasks.stores.deliveries import PRIORITY_STEPS, QueueEntry, queue_list
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.publications import (
    CommitResult,
    Lease,
    OutgoingDelivery,
    OutgoingEvent,
    Settlement,
    SettlementOutcome,
)
from petiole.tasks.transport.commands import Fetched, GiveBack, QueueSource, TransportCommands
from tests.support.inside import Inside

QUEUE = "memory"
KEEP = Subscription(agent="memory", function="keep", patterns=("input.*",))


class Engine:
    """A broker with one queue, `memory`, and the deliveries of events to one subscription of it."""

    def __init__(self, texts: redis.Redis, raw: redis.Redis, **settings: Any) -> None:
        self.texts, self.raw, self.keys = texts, raw, Keys("petiole")
        self.stores = open_stores(texts, Settings(**settings))
        self.inside = Inside(texts)
        self.inside.stores = self.stores

    # Putting

    def publish(
        self,
        event: Event | None = None,
        group: str = "",
        *,
        subscriptions: Sequence[str] = (KEEP.name,),
        capacity: int = 0,
        drops_oldest: bool = False,
    ) -> Event:
        """Publish an event, or another, to the queue."""
        event = event or an_event()
        options = {"capacity": capacity, "drops_oldest": drops_oldest}
        assert self.try_publish(event, group, subscriptions=subscriptions, **options).status == "published"
        return event

    def try_publish(self, event: Event, group: str = "", **options: Any) -> CommitResult:
        """Publish an event, as far as that is possible."""
        return self.stores.publications.publish([self.outgoing(event, group, **options)], 0)

    def outgoing(
        self,
        event: Event,
        group: str = "",
        *,
        subscriptions: Sequence[str] = (KEEP.name,),
        capacity: int = 0,
        drops_oldest: bool = False,
    ) -> OutgoingEvent:
        """Make an event with its deliveries to these subscriptions, all to the same queue."""
        options = {"group": group} if group else {}
        deliveries = [
            OutgoingDelivery(
                queue_list(self.keys, QUEUE, event.priority),
                QueueEntry("", name, options=options).head,
                capacity,
                drops_oldest,
                group or None,
            )
            for name in subscriptions
        ]
        return OutgoingEvent(event, event.model_dump_json(), deliveries)

    def send_message(self, number: int = 0) -> bytes:
        """Send a task's message as a stock client of Celery does."""
        message = json.dumps({"body": "", "headers": {"task": "t", "id": str(number)}, "properties": {}}).encode()
        self.raw.lpush(QUEUE, message)
        return message

    def dead_letter(self, group: str = "", letter_id: str = "a-letter") -> DeadLetter:
        """Store a dead letter."""
        letter = a_letter(letter_id, group)
        self.stores.dead_letters.put(letter)
        return letter

    def replay(self, letter: DeadLetter, number: int = 1) -> str:
        """Start the n-th replay of a dead letter; returns the answer."""
        options = {"id": letter_delivery_id(letter.id, number), "letter": letter.id, "replay": f"{letter.id}:{number}"}
        group = {"group": letter.message_group} if letter.message_group else {}
        entry = QueueEntry("", KEEP.name, options=options | group, body=json.dumps(letter.document).encode())
        where = queue_list(self.keys, QUEUE, 5)
        start = ReplayStart(letter.id, number, where, entry.text, letter.message_group)
        (answer,) = self.stores.dead_letters.start_replays([start], "ada", timedelta(minutes=10))
        return answer

    def make_due(self) -> None:
        """Let all delayed deliveries be due, and move them."""
        for name in self.stores.delayed_messages.due_times():
            self.texts.zadd(self.keys.delayed, {name: 0})
        self.stores.delayed_messages.move_due()

    # Taking

    def consumer(self, name: str = "one") -> Consumer:
        """Start a consumer of the queue."""
        consumer = Consumer(self, name)
        consumer.commands.renew(1_000)
        return consumer

    def silent_for(self, seconds: float, name: str) -> None:
        """Let the last heartbeat of a consumer be as long ago."""
        now, micros = self.raw.time()
        self.raw.zadd(self.keys.consumers, {name: now + micros / 1e6 - seconds})

    def expire(self, name: str) -> int:
        """Let a consumer be lost; returns how many deliveries went back."""
        return Consumer(self, "watcher").commands.expire(name, repr(self.raw.zscore(self.keys.consumers, name)))

    # Looking

    @property
    def references(self) -> int:
        """Count the references to events."""
        return self.inside.references()

    def places(self) -> list[str]:
        """Name the places of all deliveries."""
        return sorted(each.place for each in self.inside.deliveries())

    def letter_states(self) -> dict[str, str]:
        """Tell the dead letters' states."""
        states: Any = self.texts.hgetall(self.keys.dead_letter_states)
        return dict(states)

    def end_everything(self) -> None:
        """Handle all that is left, and let no lease, delay, group or reference remain."""
        for name in {each.name for each in self.inside.deliveries() if each.place == "lease"}:
            self.expire(name)
        last = self.consumer("the last")
        while self.inside.deliveries():
            self.make_due()
            taken = last.fetch(100)
            assert taken, self.inside.deliveries()
            for each in taken:
                assert last.settle(each).status == "published"


class Consumer:
    """What one consumer does with the deliveries that it fetches."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.name, self.engine, self.next_tag = name, engine, 1
        self.retry_after = timedelta(minutes=1)
        self.commands = TransportCommands(engine.raw, "petiole", name, PRIORITY_STEPS)

    @property
    def tags(self) -> list[str]:
        """The tags that it leases."""
        return self.commands.leased_tags()

    def fetch(self, count: int = 1, acks: Sequence[str] = (), *, is_leased: bool = True) -> list[Fetched]:
        """Acknowledge, and fetch so many."""
        first, self.next_tag = self.next_tag, self.next_tag + count
        return self.commands.fetch([a_source(self.engine.keys, is_leased=is_leased)], count, first, acks)

    def fetch_one(self) -> Fetched:
        """Fetch one, which must be there."""
        (fetched,) = self.fetch()
        return fetched

    def ack(self, *tags: str) -> None:
        """Acknowledge, with no fetch."""
        self.commands.fetch([], 0, 0, tags)

    def give_back(self, way: GiveBack, *tags: str) -> int:
        """Give deliveries back."""
        return self.commands.give_back(tags, way)

    def settlement(self, fetched: Fetched, outcome: SettlementOutcome = "handled", **fields: Any) -> Settlement:
        """Make the settlement of a delivery, as a worker does."""
        entry = QueueEntry.parse(fetched.text)
        options = entry.options
        settlement = Settlement(
            delivery_id=delivery_id_of(fetched),
            outcome=outcome,
            message_group=options.get("group"),
            lease=Lease(fetched.tag, self.name, is_entry=bool(entry.subscription)),
            resolved_letter_id=options.get("letter"),
            replay_number=int(options["replay"].rpartition(":")[2]) if "replay" in options else None,
        )
        if outcome in {"retrying", "deferred"}:
            failed = a_failed_attempt() if outcome == "retrying" else None
            settlement = replace(settlement, failed_attempt=failed, retry_message=self._retry(entry, fetched, failed))
        if outcome == "dead_lettered":
            letter = a_letter(options.get("letter") or settlement.delivery_id, options.get("group") or "")
            settlement = replace(settlement, letter=letter)
        return replace(settlement, **fields)

    def settle(
        self,
        fetched: Fetched,
        outcome: SettlementOutcome = "handled",
        events: Sequence[OutgoingEvent] = (),
        **fields: Any,
    ) -> CommitResult:
        """Settle a delivery, with the events that its handler published."""
        return self.engine.stores.publications.publish(events, 0, self.settlement(fetched, outcome, **fields))

    def _retry(self, entry: QueueEntry, fetched: Fetched, failed: FailedAttempt | None) -> DelayedMessage:
        attempts = [*entry.options.get("attempts", ()), *([failed.model_dump(mode="json")] if failed else ())]
        text = replace(entry, options={**entry.options, "attempts": attempts}).text
        due, keys = datetime.now(UTC) + self.retry_after, self.engine.keys
        return DelayedMessage(
            delivery_id_of(fetched), due, f"{keys.queue(QUEUE)}:wakeup", queue_list(keys, QUEUE, 5), text
        )


def a_source(keys: Keys, *, is_leased: bool = True) -> QueueSource:
    """Make the source of the queue's deliveries and messages."""
    lists = [QUEUE if not step else f"{QUEUE}{Channel.sep}{step}" for step in PRIORITY_STEPS]
    return QueueSource(QUEUE, keys.queue(QUEUE), lists, is_leased)


def delivery_id_of(fetched: Fetched) -> str:
    """Return the id of a delivery that was fetched."""
    entry = QueueEntry.parse(fetched.text)
    if not entry.subscription:
        return str(json.loads(entry.body)["headers"]["id"])
    return entry.options.get("id") or delivery_ids(event_id_of(fetched), [entry.subscription])[0]


def event_id_of(fetched: Fetched) -> str:
    """Return the id of the event of a delivery that was fetched."""
    return str(json.loads(fetched.event)["event_id"])


def an_event(text: str = "hi", **fields: Any) -> TextMessageEvent:
    """Make an event."""
    return TextMessageEvent(stream_id="s", content=TextContent(text=text), **fields)


def a_failed_attempt(error: str | None = "no", worker: str = "one") -> FailedAttempt:
    """Make a failed attempt."""
    return FailedAttempt(at=datetime.now(UTC), worker=worker, error_type=error and "RuntimeError", error=error)


def a_letter(letter_id: str, group: str = "") -> DeadLetter:
    """Make a dead letter."""
    return DeadLetter(
        id=letter_id,
        delivery_id=letter_id,
        subscription=KEEP.name,
        queue=QUEUE,
        cause="failed",
        error_type="RuntimeError",
        error="no",
        traceback="…",
        fingerprint="0",
        attempts=(a_failed_attempt(),),
        at=datetime.now(UTC),
        document=json.loads(an_event("of a letter").model_dump_json()),
        message_group=group or None,
    )
