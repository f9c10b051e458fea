"""The bus's state in Redis: one file per store, each with its promise in the docstring.

`open_stores` opens all of them over one client; tests and the in-process bus pass a fakeredis client. Most processes
use a few, so each store is opened when it is first used, and those that no publish needs are imported then.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from redis import Redis

from petiole.tasks.stores.blobs import Blobs
from petiole.tasks.stores.clock import Clock, ServerClock
from petiole.tasks.stores.delayed_messages import DelayedMessages
from petiole.tasks.stores.deliveries import Deliveries
from petiole.tasks.stores.directory import Directory
from petiole.tasks.stores.history import History, Retention
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.message_groups import MessageGroups
from petiole.tasks.stores.publications import Publications
from petiole.tasks.stores.requests import Requests

if TYPE_CHECKING:
    from petiole.tasks.settings import Settings
    from petiole.tasks.stores.agent_state import AgentStates
    from petiole.tasks.stores.aggregations import Aggregations
    from petiole.tasks.stores.attempts import Attempts
    from petiole.tasks.stores.circuits import Circuits
    from petiole.tasks.stores.cluster_membership import ClusterMembership
    from petiole.tasks.stores.counters import Counters
    from petiole.tasks.stores.dead_letters import DeadLetters
    from petiole.tasks.stores.event_counts import MetricCounts
    from petiole.tasks.stores.idempotency_records import IdempotencyRecords
    from petiole.tasks.stores.inbox import Inbox
    from petiole.tasks.stores.open_deliveries import OpenDeliveries
    from petiole.tasks.stores.parked import Parked
    from petiole.tasks.stores.rate_limits import RateLimits
    from petiole.tasks.stores.response_streams import ResponseStreams
    from petiole.tasks.stores.schema_fingerprints import SchemaFingerprints
    from petiole.tasks.stores.sessions import Sessions
    from petiole.tasks.stores.shadows import ShadowOutputs

EVENTS_PER_STREAM = 2_000
"""Entries that a stream's index of the history keeps."""

EVENTS_PER_SESSION = 200
"""Events that a session's buffer keeps."""

RESPONSE_STREAM_RETENTION = timedelta(days=1)

PAYLOAD_RETENTION = timedelta(days=7)
"""How long content is kept after its last use, and so how long a delivery may wait; at least as long as the history."""


@dataclass(frozen=True)
class Stores:
    """All stores over one Redis client, which are opened when they are first used."""

    client: Redis
    keys: Keys
    settings: Settings
    clock: Clock

    @cached_property
    def server_clock(self) -> ServerClock:
        return ServerClock(self.client, self.clock)

    @cached_property
    def directory(self) -> Directory:
        return Directory(self.client, self.keys)

    @cached_property
    def history(self) -> History:
        return History(self.client, self.keys, self._retention, self.blobs)

    @cached_property
    def publications(self) -> Publications:
        return Publications(self.client, self.keys, self._retention, self._inbox_retention, self.server_clock)

    @cached_property
    def deliveries(self) -> Deliveries:
        return Deliveries(self.client, self.keys)

    @cached_property
    def message_groups(self) -> MessageGroups:
        return MessageGroups(self.client, self.keys)

    @cached_property
    def delayed_messages(self) -> DelayedMessages:
        return DelayedMessages(self.client, self.keys)

    @cached_property
    def blobs(self) -> Blobs:
        return Blobs(self.client, self.keys, max(PAYLOAD_RETENTION, self._retention.age), self.settings.max_event_bytes)

    @cached_property
    def requests(self) -> Requests:
        return Requests(self.client, self.keys, self.server_clock)

    @cached_property
    def agent_states(self) -> AgentStates:
        from petiole.tasks.stores.agent_state import AgentStates

        return AgentStates(self.client, self.keys)

    @cached_property
    def aggregations(self) -> Aggregations:
        from petiole.tasks.stores.aggregations import Aggregations

        return Aggregations(self.client, self.keys, self._retention.deduplication_window)

    @cached_property
    def attempts(self) -> Attempts:
        from petiole.tasks.stores.attempts import Attempts

        return Attempts(self.client, self.keys, self._inbox_retention)

    @cached_property
    def circuits(self) -> Circuits:
        from petiole.tasks.stores.circuits import Circuits

        return Circuits(self.client, self.keys, self.clock)

    @cached_property
    def cluster_membership(self) -> ClusterMembership:
        from petiole.tasks.stores.cluster_membership import ClusterMembership

        return ClusterMembership(self.client, self.keys, self._heartbeat_timeout)

    @cached_property
    def counters(self) -> Counters:
        from petiole.tasks.stores.counters import Counters

        return Counters(self.client, self.keys)

    @cached_property
    def dead_letters(self) -> DeadLetters:
        from petiole.tasks.stores.dead_letters import DeadLetters

        return DeadLetters(self.client, self.keys)

    @cached_property
    def event_counts(self) -> MetricCounts:
        from petiole.tasks.stores.event_counts import MetricCounts

        return MetricCounts(self.client, self.keys)

    @cached_property
    def idempotency_records(self) -> IdempotencyRecords:
        from petiole.tasks.stores.idempotency_records import IdempotencyRecords

        return IdempotencyRecords(self.client, self.keys, timedelta(seconds=self.settings.idempotency_retention_s))

    @cached_property
    def inbox(self) -> Inbox:
        from petiole.tasks.stores.inbox import Inbox

        return Inbox(self.client, self.keys, self._inbox_retention)

    @cached_property
    def open_deliveries(self) -> OpenDeliveries:
        from petiole.tasks.stores.open_deliveries import OpenDeliveries

        return OpenDeliveries(self.client, self.keys, self.parked)

    @cached_property
    def parked(self) -> Parked:
        from petiole.tasks.stores.parked import Parked

        return Parked(self.client, self.keys, self.settings.max_parked)

    @cached_property
    def rate_limits(self) -> RateLimits:
        from petiole.tasks.stores.rate_limits import RateLimits

        return RateLimits(self.client, self.keys, self.clock)

    @cached_property
    def response_streams(self) -> ResponseStreams:
        from petiole.tasks.stores.response_streams import ResponseStreams, StreamLimits

        return ResponseStreams(
            self.client,
            self.keys,
            StreamLimits(self._heartbeat_timeout, RESPONSE_STREAM_RETENTION, self.settings.max_response_stream_chunks),
        )

    @cached_property
    def sessions(self) -> Sessions:
        from petiole.tasks.stores.sessions import Sessions

        return Sessions(
            self.client,
            self.keys,
            buffer_length=EVENTS_PER_SESSION,
            memory_bytes=self.settings.max_session_memory_bytes,
        )

    @cached_property
    def shadows(self) -> ShadowOutputs:
        from petiole.tasks.stores.shadows import ShadowOutputs

        return ShadowOutputs(self.client, self.keys, self._retention.age)

    @cached_property
    def schema_fingerprints(self) -> SchemaFingerprints:
        from petiole.tasks.stores.schema_fingerprints import SchemaFingerprints

        return SchemaFingerprints(self.client, self.keys)

    @property
    def _retention(self) -> Retention:
        return Retention(
            max_events=self.settings.max_history_events,
            max_stream_events=EVENTS_PER_STREAM,
            age=timedelta(seconds=self.settings.history_retention_s),
            deduplication_window=timedelta(seconds=self.settings.deduplication_window_s),
        )

    @property
    def _inbox_retention(self) -> timedelta:
        return timedelta(seconds=self.settings.inbox_retention_s)

    @property
    def _heartbeat_timeout(self) -> timedelta:
        return timedelta(seconds=self.settings.heartbeat_timeout_s)


def open_stores(
    client: Redis,
    settings: Settings,
    clock: Clock | None = None,
) -> Stores:
    """Give every store over a client that decodes responses. Sends no command yet."""
    return Stores(client, Keys(settings.key_prefix), settings, clock or Clock())
