"""The bus's state in Redis: one file per store, each with its promise in the docstring.

`open_stores` opens all of them over one client; tests and the in-process bus pass a fakeredis client.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from redis import Redis

from petiole.tasks.settings import Settings
from petiole.tasks.stores.agent_state import AgentStates
from petiole.tasks.stores.aggregations import Aggregations
from petiole.tasks.stores.attempts import Attempts
from petiole.tasks.stores.blobs import Blobs
from petiole.tasks.stores.circuits import Circuits
from petiole.tasks.stores.clock import Clock
from petiole.tasks.stores.cluster_membership import ClusterMembership
from petiole.tasks.stores.counters import Counters
from petiole.tasks.stores.dead_letters import DeadLetters
from petiole.tasks.stores.delayed_messages import DelayedMessages
from petiole.tasks.stores.deliveries import Deliveries
from petiole.tasks.stores.directory import Directory
from petiole.tasks.stores.history import History, Retention
from petiole.tasks.stores.idempotency_records import IdempotencyRecords
from petiole.tasks.stores.inbox import Inbox
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.message_groups import MessageGroups
from petiole.tasks.stores.publications import Publications
from petiole.tasks.stores.rate_limits import RateLimits
from petiole.tasks.stores.requests import Requests
from petiole.tasks.stores.response_streams import ResponseStreams, StreamLimits
from petiole.tasks.stores.sessions import Sessions
from petiole.tasks.stores.shadows import ShadowOutputs

EVENTS_PER_STREAM = 2_000
"""Entries that a stream's index of the history keeps."""

EVENTS_PER_SESSION = 200
"""Events that a session's buffer keeps."""

RESPONSE_STREAM_RETENTION = timedelta(days=1)

PAYLOAD_RETENTION = timedelta(days=7)
"""How long content is kept after its last use, and so how long a delivery may wait; at least as long as the history."""


@dataclass(frozen=True, slots=True)
class Stores:
    """All stores over one Redis client."""

    directory: Directory
    history: History
    publications: Publications
    message_groups: MessageGroups
    deliveries: Deliveries
    inbox: Inbox
    attempts: Attempts
    delayed_messages: DelayedMessages
    dead_letters: DeadLetters
    sessions: Sessions
    response_streams: ResponseStreams
    blobs: Blobs
    idempotency_records: IdempotencyRecords
    shadows: ShadowOutputs
    requests: Requests
    aggregations: Aggregations
    circuits: Circuits
    rate_limits: RateLimits
    counters: Counters
    cluster_membership: ClusterMembership
    agent_states: AgentStates


def open_stores(
    client: Redis,
    settings: Settings,
    clock: Clock | None = None,
) -> Stores:
    """Open every store over a client that decodes responses. Sends no command yet."""
    keys = Keys(settings.key_prefix)
    retention = _history_retention(settings)
    clock = clock or Clock()
    heartbeat_timeout = timedelta(seconds=settings.heartbeat_timeout_s)
    inbox_retention = timedelta(seconds=settings.inbox_retention_s)
    stream_limits = StreamLimits(heartbeat_timeout, RESPONSE_STREAM_RETENTION, settings.max_response_stream_chunks)
    blobs = Blobs(client, keys, max(PAYLOAD_RETENTION, retention.age))
    return Stores(
        directory=Directory(client, keys),
        history=History(client, keys, retention, blobs),
        publications=Publications(client, keys, retention, inbox_retention),
        message_groups=MessageGroups(client, keys),
        deliveries=Deliveries(client, keys),
        inbox=Inbox(client, keys, inbox_retention),
        attempts=Attempts(client, keys, inbox_retention),
        delayed_messages=DelayedMessages(client, keys),
        dead_letters=DeadLetters(client, keys),
        sessions=Sessions(
            client, keys, buffer_length=EVENTS_PER_SESSION, memory_bytes=settings.max_session_memory_bytes
        ),
        response_streams=ResponseStreams(client, keys, stream_limits),
        blobs=blobs,
        idempotency_records=IdempotencyRecords(client, keys, timedelta(seconds=settings.idempotency_retention_s)),
        shadows=ShadowOutputs(client, keys, retention.age),
        requests=Requests(client, keys),
        aggregations=Aggregations(client, keys, retention.deduplication_window),
        circuits=Circuits(client, keys, clock),
        rate_limits=RateLimits(client, keys, clock),
        counters=Counters(client, keys),
        cluster_membership=ClusterMembership(client, keys, heartbeat_timeout),
        agent_states=AgentStates(client, keys),
    )


def _history_retention(settings: Settings) -> Retention:
    return Retention(
        max_events=settings.max_history_events,
        max_stream_events=EVENTS_PER_STREAM,
        age=timedelta(seconds=settings.history_retention_s),
        deduplication_window=timedelta(seconds=settings.deduplication_window_s),
    )
