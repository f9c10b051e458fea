"""What the broker and the state store hold, by the questions an operator or an auditor would ask.

Only this module of tests/ knows names of keys, lists and stores. A test of one store or of one script may know those of
that store: it is a test of the inside.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import redis
from kombu import Connection
from kombu.transport.redis import PRIORITY_STEPS

from petiole.events import Event
from petiole.events.dead_letter import DeadLetter
from petiole.events.ids import delivery_ids, new_event_id
from petiole.tasks.broker.messages import queue_key
from petiole.tasks.broker.topology import RABBITMQ, broker_queues
from petiole.tasks.bus import EventBus
from petiole.tasks.settings import Settings
from petiole.tasks.stores import open_stores
from petiole.tasks.stores.circuits import Circuit
from petiole.tasks.stores.keys import Keys
from petiole.tasks.testing import EventTestHarness
from petiole.tasks.transport.consumer_id import consumers_key, leased_key
from petiole.workers.state import open_team_state

UNACKNOWLEDGED, TAKEN_AT, HELD, CONSUMERS = "unacked", "unacked_index", leased_key({}), consumers_key({})


class Inside:
    """What is held at one Redis server for one key prefix."""

    def __init__(self, url: str | EventBus | EventTestHarness, prefix: str = "petiole") -> None:
        bus = url.bus if isinstance(url, EventTestHarness) else url
        if isinstance(bus, EventBus):
            self.stores = bus.stores
            self.client: Any = bus.stores.directory._client
        else:
            self.client = redis.Redis.from_url(bus, decode_responses=True, socket_timeout=10)
            self.stores = open_stores(self.client, Settings(key_prefix=prefix))
        self.team = open_team_state(self.client, Settings(key_prefix=prefix))
        self.keys = Keys(prefix)

    # Queues

    def queue_depth(self, *queues: str) -> int:
        """Count the messages that wait in these queues."""
        return sum(self.client.llen(name) for queue in queues for name in lists_of(queue))

    def queued(self, queue: str) -> list[dict[str, Any]]:
        """List the messages that wait in a queue, in the order in which workers take them."""
        return [json.loads(text) for name in lists_of(queue) for text in self.client.lrange(name, 0, -1)[::-1]]

    def send_again(self, queue: str, count: int) -> None:
        """Put copies of the next messages into a queue, as a publisher does that sends them twice."""
        for name in lists_of(queue):
            for text in self.client.lrange(name, 0, count - 1):
                copy = json.loads(text)
                copy["properties"]["delivery_tag"] += "-again"
                self.client.rpush(name, json.dumps(copy))

    def drop_next(self, queue: str) -> None:
        """Take the next message out of a queue."""
        assert any(self.client.rpop(name) for name in lists_of(queue))

    def unacknowledged(self) -> int:
        """Count the messages that workers took and did not acknowledge."""
        return int(self.client.hlen(UNACKNOWLEDGED))

    def is_idle(self, *queues: str) -> bool:
        """Tell whether nothing waits in these queues and nothing is unacknowledged."""
        return self.queue_depth(*queues) == self.unacknowledged() == 0

    def leases(self) -> int:
        """Count what is left of messages that workers took: to be given back, indexed, or held by a consumer."""
        return sum((self.client.hlen(UNACKNOWLEDGED), self.client.zcard(TAKEN_AT), self.client.hlen(HELD)))

    def consumers(self) -> int:
        """Count the consumers that renew their leases."""
        return int(self.client.zcard(CONSUMERS))

    # Events

    def history(self, topic: str | None = None) -> list[dict[str, Any]]:
        """List the published events as JSON objects, oldest first; those of one topic, or all."""
        recorded = self.stores.history.read_after(count=1_000_000)
        return [dict(each.document) for each in recorded if topic in {None, each.topic}]

    def topics(self) -> list[str]:
        """List the topics of the published events, oldest first."""
        return [each.topic for each in self.stores.history.read_after(count=1_000_000)]

    def delayed(self) -> int:
        """Count the events and retries that wait for their time."""
        return self.stores.delayed_messages.count()

    def ordered(self) -> list[str]:
        """List what is kept of ordered deliveries that have not had their turn."""
        return list(self.client.scan_iter(self.keys.message_group("*"), count=10_000))

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

    def attempted(self) -> int:
        """Count the deliveries of which an attempt is recorded, which have not been settled."""
        return self._count(self.keys.attempts("*"))

    def forget_publications(self) -> None:
        """Forget what was published: to publish it again will not be noticed."""
        self._delete(self.keys.publication("*"))

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

    def next_reply(self, stream: str, timeout_s: float = 1.0) -> str | None:
        """Take the next reply that waits for a conversation's reader."""
        reply = self.team.outbound_messages.take(stream, timeout_s)
        return None if reply is None else reply.text

    # The rest

    def counts(self) -> dict[str, int]:
        """Tell the counters."""
        return self.stores.counters.all()

    def agent_state(self, agent: str) -> dict[str, Any]:
        """Tell what an agent keeps."""
        return self.stores.agent_states.read_all(agent)

    def session_leftovers(self) -> list[str]:
        """List what is kept of conversations beside their facts."""
        return list(self.client.keys(f"{self.keys.prefix}:session_*"))

    def circuits(self) -> dict[str, Circuit]:
        """Tell the circuit breakers by name."""
        return {each.name: each for each in self.stores.circuits.all()}

    def is_heard(self, within_s: float) -> bool:
        """Tell whether any worker was heard of in the last seconds."""
        now, _ = self.client.time()
        return bool(self.client.zcount(self.keys.workers, now - within_s, "+inf"))

    def budget_drift(self, account: str) -> int:
        """Tell by how many tokens the sum that is kept of an account differs from its calls."""
        calls = self.client.hvals(self.keys.rate_limit_tokens(account))
        return int(self.client.hget(self.keys.rate_limit(account), "tokens") or 0) - sum(map(int, calls))

    def _count(self, pattern: str) -> int:
        return sum(1 for _ in self.client.scan_iter(pattern, count=10_000))

    def _delete(self, pattern: str) -> None:
        if found := self.client.keys(pattern):
            self.client.delete(*found)


def settle(harness: EventTestHarness, within_s: float = 20) -> None:
    """Wait until nothing is under way in a harness."""
    harness._wait_until(harness._is_idle, "the end of all deliveries", within_s)


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
    document, queue = json.loads(event.model_dump_json()), subscription.partition(".")[0]
    task_id = new_event_id() if as_new else delivery
    harness.bus.app.tasks[subscription].apply_async((document,), task_id=task_id, queue=queue)
    settle(harness)


def lists_of(queue: str) -> Iterator[str]:
    """Name the lists that a queue's messages wait in, the most urgent first."""
    return (queue_key(queue, step) for step in PRIORITY_STEPS)


def delete_queues(connection: Connection, *queues: str) -> None:
    """Delete what these queues are made of on RabbitMQ."""
    channel: Any = connection.channel()
    for queue in queues:
        for lane in broker_queues(queue, RABBITMQ):
            channel.queue_delete(lane)
