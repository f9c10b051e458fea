"""What the broker and the state store hold, by the questions an operator or an auditor would ask.

Only this module of tests/ knows names of keys, lists and stores. A test of one store or of one script may know those of
that store: it is a test of the inside.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import redis
from kombu import Connection

from petiole.events import Event
from petiole.events.dead_letter import DeadLetter
from petiole.events.event import PUBLISHER
from petiole.events.ids import delivery_ids, new_event_id
from petiole.events.subscriptions import Subscription
from petiole.tasks import EventBus
from petiole.tasks.broker.messages import queue_key
from petiole.tasks.broker.producer import open_producer
from petiole.tasks.broker.topology import RABBITMQ, broker_queues
from petiole.tasks.dead_letters.replay import RESEND_AFTER
from petiole.tasks.dead_letters.replay_messages import build_replay, build_replay_start, send_replay
from petiole.tasks.operations import error_channel
from petiole.tasks.settings import Settings
from petiole.tasks.settlement import undecodable
from petiole.tasks.stores import open_stores
from petiole.tasks.stores.circuits import Circuit
from petiole.tasks.stores.dead_letters import DeadLetterRecord
from petiole.tasks.stores.deliveries import DEAD_LETTER_HEADER, PRIORITY_STEPS, QueueEntry
from petiole.tasks.stores.event_counts import EventCount
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.rate_limits import RateLimitUsage
from petiole.tasks.testing import EventTestHarness
from petiole.tasks.transport.commands import Fetched
from petiole.tasks.transport.message import build_payload
from petiole.tasks.trust.policy import BACKBONE
from petiole.workers.state import open_team_state
from petiole.workers.state.keys import StateKeys

COMMANDS_ON_KEYS_OF_OTHERS = {
    "output": ["HGETALL petiole:facts:user:u", "LRANGE petiole:queues:tools:3 0 -1", "HGETALL petiole:approvals:a"],
    "tools": ["HSET petiole:facts:user:u k v", "RPOP petiole:queues:output:3", "GET petiole:spending:x:1"],
    "service": [
        "XADD petiole:history * event {}",
        "LPUSH petiole:queues:tools:3 forged",
        "LRANGE publish 0 -1",
        "HSET petiole:directory spy {}",
    ],
}
"""What users of docker-compose.yml may not do: read and write what belongs to other services."""


@dataclass(frozen=True)
class Delivery:
    """A delivery, or a message of another Celery client, that has not ended.

    `place` is queue, lease, delayed, group or parked; `name` that of the list, the consumer, the delay or the group.
    """

    place: str
    name: str
    queue_list: str
    entry: QueueEntry

    @property
    def identity(self) -> str:
        """Its id, or the event and the subscription."""
        return str(self.entry.options.get("id") or f"{self.entry.reference} {self.entry.subscription}")

    @property
    def is_active(self) -> bool:
        """Whether it is the one of its message group that does not wait."""
        return "group" in self.entry.options and self.place != "group"

    @property
    def letter(self) -> str | None:
        """The dead letter that it replays."""
        if self.entry.subscription or not self.entry.body.startswith(b"{"):
            return self.entry.options.get("letter")
        headers = json.loads(self.entry.body).get("headers")
        return headers.get(DEAD_LETTER_HEADER) if isinstance(headers, dict) else None


def _by_identity(deliveries: Sequence[Delivery]) -> Counter[str]:
    return Counter(each.identity for each in deliveries if each.entry.subscription)


def _connect(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, decode_responses=True, socket_timeout=10)


def _entry(text: str) -> QueueEntry:
    return QueueEntry.parse(text.encode())


class Inside:
    """What is held at one Redis server for one key prefix."""

    def __init__(self, url: str | redis.Redis | EventBus | EventTestHarness, prefix: str = "petiole") -> None:
        bus = url.bus if isinstance(url, EventTestHarness) else url
        if isinstance(bus, EventBus):
            self.stores = bus.stores
            self.client: Any = bus.stores.directory._client
        else:
            self.client = _connect(bus) if isinstance(bus, str) else bus
            self.stores = open_stores(self.client, Settings(key_prefix=prefix))
        self.team = open_team_state(self.client, Settings(key_prefix=prefix))
        self.keys = Keys(prefix)

    # Queues

    def queue_depth(self, *queues: str) -> int:
        """Count what waits in these queues."""
        return sum(self.client.llen(name) for queue in queues for name in self._lists(queue))

    def queued(self, queue: str) -> list[dict[str, Any]]:
        """List what waits in a queue as task messages, in the order in which workers take them."""
        return [
            self._message(name, text) for name in self._lists(queue) for text in self.client.lrange(name, 0, -1)[::-1]
        ]

    def queued_events(self, queue: str) -> Counter[str]:
        """Count the events that wait in a queue, by id."""
        return Counter(_document(message)["event_id"] for message in self.queued(queue))

    def send_again(self, queue: str, count: int) -> None:
        """Send the next deliveries of a queue once more, as another Celery client does that sends a task twice."""
        for message in self.queued(queue)[:count]:
            self.client.lpush(queue, json.dumps(message))

    def drop_next(self, queue: str) -> None:
        """Take the next message out of a queue."""
        assert any(self.client.rpop(name) for name in self._lists(queue))

    def unacknowledged(self) -> int:
        """Count the deliveries that workers took and did not acknowledge."""
        return sum(self.client.hlen(name) for name in self._leases())

    def is_idle(self, *queues: str) -> bool:
        """Tell whether nothing waits in these queues and nothing is unacknowledged."""
        return self.queue_depth(*queues) == self.unacknowledged() == 0

    def unacknowledged_messages(self) -> list[bytes]:
        """List what the broker remembers of the deliveries that workers took and did not acknowledge."""
        return [text for name in self._leases() for text in self.client.hvals(name)]

    def leases(self) -> int:
        """Count what is left of deliveries that workers took."""
        return self.unacknowledged()

    def consumers(self) -> int:
        """Count the consumers that renew their leases."""
        return int(self.client.zcard(self.keys.consumers))

    def subscribe(self, subscriptions: Sequence[Subscription]) -> None:
        """Register subscriptions as a worker's start does."""
        self.stores.directory.register(subscriptions)

    def overrides(self) -> dict[str, str]:
        """Read which agents an operator has paused or stopped."""
        return dict(self.stores.cluster_membership.read().overrides)

    def import_letters(self, letters: Iterable[DeadLetter]) -> None:
        """Store dead letters as an operator's import does."""
        self.stores.dead_letters.import_letters([DeadLetterRecord(letter, "pending") for letter in letters])

    def references(self) -> int:
        """Count the references to events of the history."""
        return sum(map(int, self.client.hvals(f"{self.keys.history}:references")))

    def parked(self) -> dict[str, int]:
        """Count the parked deliveries by what they need."""
        return {each.need.key: each.count for each in self.stores.parked.read()}

    def deliveries(self) -> list[Delivery]:
        """List all deliveries that have not ended, each with the place where it stands."""
        return [*self._queued(), *self._leased(), *self._delayed(), *self._grouped(), *self._parked()]

    def leaks(self) -> list[str]:
        """List what the broker holds and should not: compares all deliveries with what is kept about them."""
        deliveries = self.deliveries()
        return [
            *self._wrong_references(deliveries),
            *self._wrong_groups(deliveries),
            *self._wrong_replays(deliveries),
            *self._wrong_leases(deliveries),
            *(f"{each} stands in two places" for each, count in _by_identity(deliveries).items() if count > 1),
        ]

    def _queued(self) -> Iterator[Delivery]:
        for name in map(_text, self.client.scan_iter(f"{self.keys.queue('*')}", count=10_000)):
            for text in [] if name.endswith(":wakeup") else self.client.lrange(name, 0, -1)[::-1]:
                yield Delivery("queue", name, name, _entry(text))

    def _leased(self) -> Iterator[Delivery]:
        for name in self._leases():
            for leased in self.client.hvals(name):
                queue_list, _, text = leased.partition("\n")
                yield Delivery("lease", name.removeprefix(self.keys.consumer("")), queue_list, _entry(text))

    def _delayed(self) -> Iterator[Delivery]:
        for name, value in self.client.hgetall(self.keys.delayed_messages).items():
            _, queue_list, text = value.split("\n", 2)
            if queue_list.startswith(self.keys.queue("")):
                yield Delivery("delayed", name, queue_list, _entry(text))

    def _grouped(self) -> Iterator[Delivery]:
        for name in self.ordered():
            for waiting in self.client.lrange(name, 0, -1):
                queue_list, _, text = waiting.partition("\n")
                yield Delivery("group", name.removeprefix(self.keys.message_group("")), queue_list, _entry(text))

    def _parked(self) -> Iterator[Delivery]:
        for name in self._names(f"{self.keys.parked}:*"):
            for text in [] if name.endswith(":wakeup") else self.client.lrange(name, 0, -1)[::-1]:
                yield Delivery("parked", name, name, _entry(text))

    def _wrong_references(self, deliveries: Sequence[Delivery]) -> Iterator[str]:
        references = [each.entry.reference for each in deliveries if each.entry.reference]
        found = Counter(reference.partition("/")[0] for reference in references)
        counted = {block: int(count) for block, count in self.client.hgetall(f"{self.keys.history}:references").items()}
        if counted != found:
            yield f"the references of blocks are {dict(found)}, and counted are {counted}"
        for reference in references:
            entry_id = reference.partition("/")[2]
            if not self.client.xrange(self.keys.history, entry_id, entry_id):
                yield f"the event {reference} is missing"
        for block in self.client.hkeys(f"{self.keys.history}:kept"):
            if block not in found:
                yield f"the old block {block} is kept without a reference"

    def _wrong_groups(self, deliveries: Sequence[Delivery]) -> Iterator[str]:
        active = Counter(each.entry.options["group"] for each in deliveries if each.is_active)
        if active != Counter(self.client.smembers(self.keys.active_message_groups)):
            yield f"of message groups, one delivery each should be active, but are {dict(active)}"
        waiting = Counter(each.queue_list.rsplit(":", 2)[1] for each in deliveries if each.place == "group")
        counted = {queue: count for queue, count in self.ordered_waiting().items() if count}
        if counted != waiting:
            yield f"in message groups wait {dict(waiting)}, and counted are {counted}"
        for each in deliveries:
            if each.place == "group" and each.name not in active:
                yield f"nothing precedes what waits in the message group {each.name}"

    def _wrong_replays(self, deliveries: Sequence[Delivery]) -> Iterator[str]:
        found = Counter(each.letter for each in deliveries if each.letter)
        states = self.client.hgetall(self.keys.dead_letter_states)
        replaying = Counter(letter for letter, state in states.items() if state == "replaying")
        if found != replaying:
            yield f"replays of the dead letters {dict(found)} are queued, and {dict(replaying)} are in that state"

    def _wrong_leases(self, deliveries: Sequence[Delivery]) -> Iterator[str]:
        heard = set(self.client.zrange(self.keys.consumers, 0, -1))
        for name in {each.name for each in deliveries if each.place == "lease"} - heard:
            yield f"nobody would notice the loss of {name}, which leases deliveries"
        for name in self._names(self.keys.consumer_slots("*")):
            consumer = name.removeprefix(self.keys.consumer("")).removesuffix(":slots")
            begun = {slot.removeprefix("begun:") for slot in self.client.hkeys(name) if slot.startswith("begun:")}
            if begun - set(self.client.hkeys(self.keys.consumer(consumer))):
                yield f"{consumer} began deliveries that it does not lease"

    def _names(self, pattern: str) -> list[str]:
        return [_text(name) for name in self.client.scan_iter(pattern, count=10_000)]

    def _leases(self) -> list[str]:
        names = self.client.scan_iter(self.keys.consumer("*"), count=10_000)
        return [name for name in map(_text, names) if not name.endswith(":slots")]

    def _lists(self, queue: str) -> Iterator[str]:
        for step in PRIORITY_STEPS:
            yield from (f"{self.keys.queue(queue)}:{step}", queue_key(queue, step))

    def _message(self, name: str, text: str) -> dict[str, Any]:
        if not name.startswith(f"{self.keys.prefix}:queues:"):
            message: dict[str, Any] = json.loads(text)
            return message
        entry = QueueEntry.parse(text.encode())
        row = self.client.xrange(self.keys.history, *[entry.reference.partition("/")[2]] * 2) if entry.reference else []
        event = row[0][1]["event"].encode() if row else b""
        queue = name.removeprefix(f"{self.keys.prefix}:queues:").rpartition(":")[0]
        payload = build_payload(Fetched(queue, str(uuid4()), text.encode(), event), "")
        for header in ("petiole_consumer", "petiole_fetched_at", "petiole_entry"):
            payload["headers"].pop(header, None)
        return payload

    # Events

    def history(self, topic: str | None = None) -> list[dict[str, Any]]:
        """List the published events as JSON objects, oldest first; those of one topic, or all."""
        recorded = self.stores.history.read_after(count=1_000_000)
        return [dict(each.document) for each in recorded if topic in {None, each.topic}]

    def recorded_at(self, number: int) -> datetime:
        """Tell when the event of that number, from 0, was recorded."""
        return datetime.fromtimestamp(self.recorded()[number].recorded_at_ms / 1_000, UTC)

    def recorded(self) -> list[Any]:
        """List the published events as the history has them: large ones with a reference, if it can be read or not."""
        return self.stores.history.read_after(count=1_000_000)

    def topics(self) -> list[str]:
        """List the topics of the published events, oldest first."""
        return [each.topic for each in self.stores.history.read_after(count=1_000_000)]

    def delayed(self) -> int:
        """Count the events and retries that wait for their time."""
        return self.stores.delayed_messages.count()

    def ordered(self) -> list[str]:
        """List the message groups in which deliveries wait for those before them."""
        return self._names(self.keys.message_group("*"))

    def ordered_active(self) -> set[str]:
        """Name the keys whose ordered deliveries are not all settled."""
        return {group.split(":")[-1] for group in self.client.smembers(self.keys.active_message_groups)}

    def ordered_waiting(self) -> dict[str, int]:
        """Count the ordered deliveries that wait for those before them, by queue."""
        return {queue: int(count) for queue, count in self.client.hgetall(self.keys.message_group_counts).items()}

    def handled(self) -> int:
        """Count the deliveries that are known to have been handled."""
        return self._count(self.keys.inbox("*"))

    def is_handled(self, subscription: str, event: Event) -> bool:
        """Tell whether the delivery of an event to a subscription is known to have been handled."""
        (delivery,) = delivery_ids(event.event_id, [subscription])
        return self.stores.inbox.is_handled(delivery)

    def subscriptions(self) -> list[str]:
        """Name the subscriptions that events are sent to."""
        return [each.name for each in self.stores.directory.read()[1]]

    def withdraw(self, subscription: str) -> None:
        """Let nothing be sent to a subscription any more."""
        self.stores.directory.unregister(subscription)

    def lose(self, *names: str) -> None:
        """Let the server have lost these keys, as when it evicts them."""
        self.client.delete(*(f"{self.keys.prefix}:{name}" for name in names))

    def lose_subscription(self, name: str) -> None:
        """Let the server have lost one subscription."""
        assert self.client.hdel(self.keys.directory, name)

    def attempted(self) -> int:
        """Count the deliveries of which an attempt is recorded, which have not been settled."""
        return self._count(self.keys.attempts("*"))

    def forget_publications(self) -> None:
        """Forget what was published: to publish it again will not be noticed."""
        self._delete(self.keys.publication("*"))
        self._delete(f"{self.keys.prefix}:published:*")

    def forget_handled(self) -> None:
        """Forget which deliveries were handled: a redelivery is handled again."""
        self._delete(self.keys.inbox("*"))

    def begin_publication(self, event_id: str) -> None:
        """Let a publication be one that was begun, and cut short."""
        self.client.set(self.keys.publication(event_id), "started")

    # Large events

    def payloads(self) -> int:
        """Count the contents that are stored for events too large to travel."""
        return self._count(self.keys.blob("*"))

    def delete_payloads(self) -> None:
        """Delete the contents that are stored for events."""
        self._delete(self.keys.blob("*"))

    def alter_payloads(self, content: str) -> None:
        """Put another content in the place of each that is stored for an event."""
        for name in self.client.keys(self.keys.blob("*")):
            self.client.set(name, content)

    # Dead letters

    def dead_letters(self) -> list[DeadLetter]:
        """List the dead letters, oldest first."""
        return self.stores.dead_letters.all()

    def dead_letter_states(self) -> Counter[str]:
        """Count the dead letters by state."""
        return Counter({str(state): count for state, count in self.stores.dead_letters.count_by_state().items()})

    def keep_dead_letter(self, letter: DeadLetter) -> None:
        """Keep a dead letter, as when its delivery was given up."""
        self.stores.dead_letters.put(letter)

    def resolve_dead_letter(self, letter_id: str) -> None:
        """Let a dead letter be one whose replay was handled."""
        self.stores.dead_letters.resolve(letter_id)

    def retain_elsewhere(self) -> None:
        """Let another worker be the one that looks after dead letters' retention for now."""
        assert self.stores.dead_letters.acquire_retention_lock("another", timedelta(minutes=1))

    def replays(self) -> int:
        """Count the dead letters that were replayed."""
        return int(self.client.hlen(self.keys.dead_letter_replays))

    def break_dead_letters(self) -> None:
        """Let no dead letter be written: something else stands in their place."""
        self.client.set(self.keys.dead_letters, "in the way")

    def mend_dead_letters(self) -> None:
        """Let dead letters be written again."""
        self.client.delete(self.keys.dead_letters)

    # Requests

    def pending_requests(self) -> int:
        """Count the requests that somebody waits for."""
        return self.stores.requests.count()

    def stored_replies(self) -> int:
        """Count the replies that nobody has taken."""
        return self._count(self.keys.request_reply("*"))

    def endless_requests(self) -> list[str]:
        """List what is kept of requests and would stay for ever."""
        return [name for name in self.client.scan_iter(self.keys.request("*")) if self.client.pttl(name) == -1]

    # Conversations

    def chunks(self, stream: str) -> list[Any]:
        """List what was streamed to the readers of a conversation."""
        return self.stores.response_streams.read(stream, after=0)

    def overtake(self, stream: str, answer_id: str) -> None:
        """Let another run write an answer from now on."""
        self.stores.response_streams.begin(stream, answer_id, correlation_id="another-flow", token="another")

    def take_replies(self, stream: str) -> list[str]:
        """Take all the replies that wait for a conversation's reader."""
        texts = []
        while reply := self.team.outbound_messages.take(stream, 0):
            texts.append(reply.text)
        return texts

    def remembered(self, stream: str) -> list[Any]:
        """List what was remembered of a conversation, oldest first."""
        return self.team.memories.read(stream)

    def memory(self, *owners: str) -> object:
        """Tell all that is kept of these conversations' and users' memories and facts."""
        return [(self.team.memories.read_by_key(owner), self.team.facts.read(owner)) for owner in owners]

    def lose_answers(self, stream: str) -> None:
        """Mark the answers as lost whose writers did not renew their leases, as a reader does."""
        self.stores.response_streams.mark_lost(stream)

    # The rest

    def counts(self) -> dict[str, int]:
        """Tell the counters."""
        return self.stores.counters.all()

    def begin_operation(self, name: str, owner: str) -> None:
        """Let an operation be one that a delivery began and did not finish: its worker died."""
        limit = timedelta(minutes=5)
        self.stores.idempotency_records.begin(
            name, token="of the dead", owner=owner, limit=limit, repeats_unfinished=False
        )

    def operations_kept_ms(self) -> list[int]:
        """List for how long the records of operations are kept."""
        return [self.client.pttl(name) for name in self.client.keys(self.keys.idempotency_record("*"))]

    def approval_kept_ms(self, approval_id: str) -> int:
        """Tell for how long an approval is kept."""
        return int(self.client.pttl(StateKeys(self.keys.prefix).approval(approval_id)))

    def agent_state(self, agent: str) -> dict[str, Any]:
        """Tell what an agent keeps."""
        return self.stores.agent_states.read_all(agent)

    def set_last_activity(self, session: str, at_ms: int) -> None:
        """Let the last event of a session be of another time, which the list of idle sessions does not know yet."""
        self.client.hset(self.keys.session(session), "last", at_ms)
        self.client.zadd(self.keys.sessions, {session: 0}, xx=True)

    def add_sessions(self, count: int) -> None:
        """Let so many sessions be open."""
        with self.client.pipeline(transaction=False) as pipeline:
            for number in range(count):
                facts = {"type": "chat", "state": "active", "created": number, "last": number}
                pipeline.hset(self.keys.session(f"s{number}"), mapping=facts)
                pipeline.zadd(self.keys.sessions, {f"s{number}": number})
            pipeline.execute()

    def keys_of_sessions(self) -> dict[str, int]:
        """Tell for how many seconds more each key of a session is kept."""
        names = self.client.scan_iter(f"{self.keys.prefix}:session*", count=10_000)
        return {name: self.client.ttl(name) for name in names if name != self.keys.sessions}

    def session_leftovers(self) -> list[str]:
        """List what is kept of conversations beside their facts."""
        return list(self.client.keys(f"{self.keys.prefix}:session_*"))

    def open_sessions(self) -> list[str]:
        """List the sessions that have not ended."""
        return self.stores.sessions.list_open()

    def session(self, session_id: str) -> Any:
        """Tell what is known of a session, also once it has ended."""
        return self.stores.sessions.get(session_id)

    def count_deliveries(self, subscription: str, **outcomes: int) -> None:
        """Count attempts to deliver, by outcome."""
        counts = {EventCount("delivery", "x", subscription, outcome): count for outcome, count in outcomes.items()}
        self.stores.event_counts.add(counts)

    def rate_usage(self, account: str) -> RateLimitUsage:
        """Tell what was used of an account's quota in its window."""
        return self.stores.rate_limits.usage(account)

    def save_summary(self, summary: Any) -> None:
        """Let the next summary of metrics begin where this one ends."""
        self.stores.counters.save_summary(summary.counts, summary.until)

    def circuits(self) -> dict[str, Circuit]:
        """Tell the circuit breakers by name."""
        return {each.name: each for each in self.stores.circuits.all()}

    def is_started(self) -> bool:
        """Tell whether the system is started, and a worker was heard of within the heartbeat timeout."""
        return self.stores.cluster_membership.has_active_workers()

    def agents(self) -> dict[str, str]:
        """Tell the agents that workers serve, with their states."""
        return {name: agent.state for name, agent in self.stores.cluster_membership.read().agents.items()}

    def pause(self, agent: str) -> None:
        """Pause an agent, as an operator does."""
        self.stores.cluster_membership.set_override(agent, "paused")

    def paused(self) -> list[str]:
        """Name the agents that an operator paused."""
        return sorted(self.stores.cluster_membership.read().overrides)

    def is_heard(self) -> bool:
        """Tell whether any worker was heard of within the heartbeat timeout."""
        return bool(self._count(self.keys.heartbeat("*")))

    def break_budget(self, account: str) -> None:
        """Let nothing be counted for an account: something else stands in its place."""
        self.client.set(self.keys.rate_limit(account), "in the way")

    def budget_drift(self, account: str) -> int:
        """Tell by how many tokens the sum that is kept of an account differs from its calls."""
        calls = self.client.hvals(self.keys.rate_limit_tokens(account))
        return int(self.client.hget(self.keys.rate_limit(account), "tokens") or 0) - sum(map(int, calls))

    def _count(self, pattern: str) -> int:
        return sum(1 for _ in self.client.scan_iter(pattern, count=10_000))

    def _delete(self, pattern: str) -> None:
        if found := self.client.keys(pattern):
            self.client.delete(*found)


def shut_down(bus: EventBus) -> None:
    """Shut the system down, as a critical error does."""
    error_channel.shut_down(bus, by="an operator")


def drain_undecodable(bus: EventBus, channel: Any) -> int:
    """Keep the messages that nobody can read as dead letters, as workers do now and then; returns how many."""
    return undecodable.drain_undecodable(bus, channel)


def a_raw_message(event: Event, task: str) -> bytes:
    """Write the message of a delivery as it lies at the broker."""
    body = json.dumps([[json.loads(event.model_dump_json())], {}, {}]).encode()
    message = {
        "body": base64.b64encode(body).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": task, "id": "once-sent", "lang": "py", "petiole_consumer": "a-holder"},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": "a-tag",
            "delivery_info": {"exchange": "", "routing_key": task.partition(".")[0]},
            "priority": 4,
        },
    }
    return json.dumps(message).encode()


def begin_replay(bus: EventBus, letter: DeadLetter) -> str:
    """Begin the replay of a dead letter, and send nothing: its operator died. Returns the id of the delivery."""
    replay = build_replay(letter, 1)
    start = build_replay_start(bus, replay)
    assert bus.stores.dead_letters.start_replays([start], "a dead operator", RESEND_AFTER) == ["started"]
    return replay.delivery_id


def send_first_replay_again(bus: EventBus, letter: DeadLetter) -> None:
    """Send the message of a dead letter's first replay once more."""
    with open_producer(bus, "a copy") as outlet:
        send_replay(bus, build_replay(letter, 1), outlet)


def stop_worker(harness: EventTestHarness) -> None:
    """Let nobody handle what a harness publishes from now on."""
    in_process = harness.bus._in_process
    assert in_process is not None
    assert in_process._worker is not None
    in_process._worker.stop()


def settle(harness: EventTestHarness, within_s: float = 20) -> None:
    """Wait until nothing is under way in a harness."""
    harness._wait_until(harness._is_idle, "deliveries did not end", within_s)


def is_quiet(harness: EventTestHarness, for_s: float) -> bool:
    """Tell whether a harness publishes nothing for so long."""
    count = len(harness.published_events())
    try:
        harness._wait_until(lambda: len(harness.published_events()) > count, "another event", for_s)
    except TimeoutError:
        return True
    return False


def deliver(harness: EventTestHarness, subscription: str, event: Event, *, as_new: bool = False) -> None:
    """Bring an event to a subscription once more, as the broker would, and wait until nothing is under way."""
    (delivery,) = delivery_ids(event.event_id, [subscription])
    queue = subscription.partition(".")[0]
    document = json.loads(event.model_dump_json()) | {PUBLISHER: BACKBONE}
    task_id = new_event_id() if as_new else delivery
    harness.bus.app.tasks[subscription].apply_async((document,), task_id=task_id, queue=queue)
    settle(harness)


def _document(message: dict[str, Any]) -> Any:
    body = message["body"]
    if message["properties"].get("body_encoding") == "base64":
        body = base64.b64decode(body)
    return json.loads(body)[0][0]


def _text(name: str | bytes) -> str:
    return name if isinstance(name, str) else name.decode()


def delete_queues(connection: Connection, *queues: str) -> None:
    """Delete what these queues are made of on RabbitMQ."""
    channel: Any = connection.channel()
    for queue in queues:
        for lane in broker_queues(queue, RABBITMQ):
            channel.queue_delete(lane)
