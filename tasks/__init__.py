"""The backbone: Celery tasks and the stages of an event's delivery. This module is its public API.

A service or a handler calls `publish(event)` (publication.py). The event then passes five stages, a folder each:

    1. routing/       choose the subscriptions that get the event
    2. publishing/    validate the event, record it, and send one message per subscription to its agent's queue
    3. consuming/     fetch messages from the queues and check them; each starts the task in delivery.py
    4. handling/      call the handler, and buffer the events that it publishes
    5. settlement/    commit the outcome: publish the buffered events, or retry, defer or dead-letter the delivery

bus.py adds them to a Celery app. On top of them:

    agents.py         Agent: declares subscriptions and handlers; handler_context.py is what a handler is given
    dead_letters/     list, edit, replay and discard dead letters
    requests/         send a request and wait for its response
    patterns/         gather several events, idempotent calls, agent state, shadow traffic
    sessions/         the state of a conversation and its participants
    streaming/        write and read a response while it is generated
    resilience/       circuit breakers and rate limits that all workers share
    operations/       error channel, lifecycle events, metrics, history replay
    periodic.py       the tasks that beat sends
    testing/          run all stages in one process

They use broker/ (queues and messages), transport/ (kombu's channel for Redis) and stores/ (state in Redis).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from petiole.lazy import lazy_names

if TYPE_CHECKING:
    from petiole.events.responses import Response
    from petiole.tasks import dead_letters
    from petiole.tasks.agents import Agent
    from petiole.tasks.bus import EventBus, default_bus, publish, publish_many, read_answer, request
    from petiole.tasks.handler_context import Context
    from petiole.tasks.operations.error_channel import report
    from petiole.tasks.operations.history_replay import HistoryReplay, replay_history
    from petiole.tasks.operations.listening import listen
    from petiole.tasks.patterns import shadow_traffic
    from petiole.tasks.patterns.gather import GatheredEvents
    from petiole.tasks.patterns.idempotency import idempotent
    from petiole.tasks.publishing.commit import Publication
    from petiole.tasks.requests.requester import PendingResponse
    from petiole.tasks.requests.responder import NO_REPLY_YET
    from petiole.tasks.resilience.guarded import guarded
    from petiole.tasks.resilience.rate_limits import RateLimit
    from petiole.tasks.sessions.session import (
        Session,
        end_session,
        mark_session_started,
        open_session,
        record_session_event,
        session_event_id,
    )
    from petiole.tasks.settlement.outcomes import Outcome
    from petiole.tasks.settlement.retry_policy import RetryPolicy, later
    from petiole.tasks.stores.sessions import Participant, SessionInfo
    from petiole.tasks.streaming.reader import Chunk, ResponseStreamReader
    from petiole.tasks.streaming.writer import ResponseStream

__all__ = [
    "NO_REPLY_YET",
    "Agent",
    "Chunk",
    "Context",
    "EventBus",
    "GatheredEvents",
    "HistoryReplay",
    "Outcome",
    "Participant",
    "PendingResponse",
    "Publication",
    "RateLimit",
    "Response",
    "ResponseStream",
    "ResponseStreamReader",
    "RetryPolicy",
    "Session",
    "SessionInfo",
    "dead_letters",
    "default_bus",
    "end_session",
    "guarded",
    "idempotent",
    "later",
    "listen",
    "mark_session_started",
    "open_session",
    "publish",
    "publish_many",
    "read_answer",
    "record_session_event",
    "replay_history",
    "report",
    "request",
    "session_event_id",
    "shadow_traffic",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "petiole.events.responses": "Response",
        "petiole.tasks.agents": "Agent",
        "petiole.tasks.bus": "EventBus default_bus publish publish_many read_answer request",
        "petiole.tasks.handler_context": "Context",
        "petiole.tasks.operations.error_channel": "report",
        "petiole.tasks.operations.history_replay": "HistoryReplay replay_history",
        "petiole.tasks.operations.listening": "listen",
        "petiole.tasks.patterns.gather": "GatheredEvents",
        "petiole.tasks.patterns.idempotency": "idempotent",
        "petiole.tasks.publishing.commit": "Publication",
        "petiole.tasks.requests.requester": "PendingResponse",
        "petiole.tasks.requests.responder": "NO_REPLY_YET",
        "petiole.tasks.resilience.guarded": "guarded",
        "petiole.tasks.resilience.rate_limits": "RateLimit",
        "petiole.tasks.sessions.session": (
            "Session end_session mark_session_started open_session record_session_event session_event_id"
        ),
        "petiole.tasks.settlement.outcomes": "Outcome",
        "petiole.tasks.settlement.retry_policy": "RetryPolicy later",
        "petiole.tasks.stores.sessions": "Participant SessionInfo",
        "petiole.tasks.streaming.reader": "Chunk ResponseStreamReader",
        "petiole.tasks.streaming.writer": "ResponseStream",
    },
    modules=("petiole.tasks.dead_letters", "petiole.tasks.patterns.shadow_traffic"),
)

if __name__ == "tasks":
    # From a checkout's root this file is importable as `tasks` too. Its modules have one name, `petiole.tasks.…`.
    __path__ = []
