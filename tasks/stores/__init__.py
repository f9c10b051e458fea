"""What is remembered: one file per memory, Redis and nowhere else. Each says its promise first.

Tests and the harness hand these same stores a fakeredis client.
"""

from __future__ import annotations

from dataclasses import dataclass

from redis import Redis

from petiole.tasks.settings import Settings
from petiole.tasks.stores.agent_state import States
from petiole.tasks.stores.aggregations import Gatherings
from petiole.tasks.stores.attempts import Attempts
from petiole.tasks.stores.blobs import Blobs
from petiole.tasks.stores.circuits import Circuits
from petiole.tasks.stores.clock import Clock
from petiole.tasks.stores.cluster_membership import Lifecycle
from petiole.tasks.stores.counters import Counters
from petiole.tasks.stores.dead_letters import DeadLetters
from petiole.tasks.stores.delayed_messages import Delays
from petiole.tasks.stores.directory import Directory
from petiole.tasks.stores.history import History, Retention
from petiole.tasks.stores.idempotency_records import Effects
from petiole.tasks.stores.inbox import Inbox
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.message_groups import Mailboxes
from petiole.tasks.stores.publications import HeldKeys, Publications
from petiole.tasks.stores.rate_limits import Budgets
from petiole.tasks.stores.requests import Requests
from petiole.tasks.stores.response_streams import Drafts
from petiole.tasks.stores.response_streams import Limits as DraftLimits
from petiole.tasks.stores.sessions import Sessions
from petiole.tasks.stores.shadows import Shadows


@dataclass(frozen=True, slots=True)
class Stores:
    """All memories over one Redis client."""

    directory: Directory
    history: History
    publications: Publications
    mailboxes: Mailboxes
    inbox: Inbox
    attempts: Attempts
    delays: Delays
    dead_letters: DeadLetters
    sessions: Sessions
    drafts: Drafts
    blobs: Blobs
    effects: Effects
    shadows: Shadows
    requests: Requests
    gatherings: Gatherings
    circuits: Circuits
    budgets: Budgets
    counters: Counters
    lifecycle: Lifecycle
    states: States
    held: HeldKeys


def open_stores(
    client: Redis,
    settings: Settings,
    held: HeldKeys = HeldKeys(),  # noqa: B008 - a constant
    clock: Clock | None = None,
) -> Stores:
    """Open every store over a client that decodes its responses. Connects to nothing yet."""
    keys = Keys(settings.key_prefix)
    retention = Retention(
        length=settings.history_length,
        index_length=settings.stream_history_length,
        age=settings.history_age,
        publish_window=settings.publish_window,
    )
    clock = clock or Clock()
    drafts = DraftLimits(settings.draft_lease, settings.draft_age, settings.draft_length)
    blobs = Blobs(client, keys, settings.blob_age)
    return Stores(
        directory=Directory(client, keys),
        history=History(client, keys, retention, blobs),
        publications=Publications(client, keys, retention, settings.inbox_age, held),
        mailboxes=Mailboxes(client, keys),
        inbox=Inbox(client, keys, settings.inbox_age),
        attempts=Attempts(client, keys, settings.inbox_age),
        delays=Delays(client, keys),
        dead_letters=DeadLetters(client, keys),
        sessions=Sessions(
            client, keys, buffer_length=settings.session_buffer, memory_bytes=settings.session_memory_bytes
        ),
        drafts=Drafts(client, keys, drafts),
        blobs=blobs,
        effects=Effects(client, keys, settings.effect_age),
        shadows=Shadows(client, keys, settings.history_age),
        requests=Requests(client, keys),
        gatherings=Gatherings(client, keys, settings.publish_window),
        circuits=Circuits(client, keys, clock),
        budgets=Budgets(client, keys, clock),
        counters=Counters(client, keys),
        lifecycle=Lifecycle(client, keys, settings.heartbeat_limit),
        states=States(client, keys),
        held=held,
    )
