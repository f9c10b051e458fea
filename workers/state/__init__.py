"""State of the bundled agents in the Redis of the bus, with its own keys and scripts.

state = team_state(context.bus)
state.memories.keep(...)
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from redis import Redis

from petiole.tasks.runtime import BusRuntime
from petiole.tasks.settings import Settings
from petiole.workers.settings import WorkerSettings
from petiole.workers.state.approvals import Approvals
from petiole.workers.state.audio_streams import AudioStreams
from petiole.workers.state.event_counts import EventCounts
from petiole.workers.state.facts import Facts
from petiole.workers.state.keys import StateKeys
from petiole.workers.state.memories import Memories
from petiole.workers.state.outbound_messages import OutboundMessages
from petiole.workers.state.push_notifications import PushNotifications
from petiole.workers.state.scenes import Scenes
from petiole.workers.state.spending import Spending
from petiole.workers.state.stream_owners import StreamOwners
from petiole.workers.state.vectors import EmbeddingStore


@dataclass(frozen=True, slots=True)
class TeamState:
    """The stores of the bundled agents."""

    memories: Memories
    facts: Facts
    vectors: EmbeddingStore
    event_counts: EventCounts
    outbound_messages: OutboundMessages
    approvals: Approvals
    spending: Spending
    audio_streams: AudioStreams
    scenes: Scenes
    stream_owners: StreamOwners
    push_notifications: PushNotifications


def team_state(bus: BusRuntime) -> TeamState:
    """Return the stores of the bundled agents on a bus. Raises NotConfigured if no Redis is configured."""
    return bus.resource(_open)


def _open(bus: BusRuntime) -> TeamState:
    return open_team_state(bus.redis, bus.settings)


def open_team_state(client: Redis, bus_settings: Settings) -> TeamState:
    """Open every store over a client that decodes responses. Sends no command yet."""
    keys = StateKeys(bus_settings.key_prefix)
    decided_s = bus_settings.idempotency_retention_s
    return TeamState(
        memories=Memories(client, keys),
        facts=Facts(client, keys),
        vectors=EmbeddingStore(client, keys),
        event_counts=EventCounts(client, keys),
        outbound_messages=OutboundMessages(client, keys),
        audio_streams=AudioStreams(client, keys),
        scenes=Scenes(client, keys),
        stream_owners=StreamOwners(client, keys),
        approvals=Approvals(
            client,
            keys,
            pending_age=timedelta(seconds=decided_s + WorkerSettings().approval_timeout_s),
            # No longer than the record of the granted call, which keeps the call from running twice.
            decided_age=timedelta(seconds=decided_s),
        ),
        spending=Spending(client, keys),
        push_notifications=PushNotifications(client, keys, timedelta(seconds=bus_settings.history_retention_s)),
    )
