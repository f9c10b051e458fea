"""How it travels: the journey of an event, one file per station.

    service or handler
        │  publish(event)                          publication.py   check, record, route
        ▼
    queue of each agent that subscribed            routing.py       who hears it
        │  one task per subscription
        ▼
    worker                                         delivery.py      open, validate, admit, handle, settle
        │  what the handler returned
        ▼
    publish(event) …                               and so on, until nobody has anything to say

    a handler failed                               retries.py       again after a while, or never
        │  waits in the broker                     waiting.py
        ▼
    delivery, or a dead letter                     burial.py        kept with its reason

    shadows.compare(…)                             shadows.py       what a shadow would have said
    report(error, …)                               error_channel.py the error channel, whose severities act
    dead_letters.replay(…)                         dead_letters/    what was given up: looked at, mended, sent again
    replay(subscription, …)                        replays.py       from the history to one subscription, again

    @guarded(name)                                 breakers/        what may be down is left alone by all workers
    Budget(account, …)                             budgets.py       a provider's quota, kept by all workers together

    request(…), its answer                         requests/        one asks, one answers
    context.draft(), read_answer(…)              drafts/          an answer while it is written, read along
    gather(…)                                      gathering.py     several events, one call

    context.session                                sessions/        a conversation as such: its state, who takes part

What is remembered on the way stands in stores/; tests travel the same way through testing/.
"""

from __future__ import annotations

from petiole.events.responses import Response
from petiole.tasks import dead_letters
from petiole.tasks.agents import Agent
from petiole.tasks.bus import EventBus, default_bus, publish, publish_many, read_answer, request
from petiole.tasks.handler_context import Context
from petiole.tasks.operations.error_channel import report
from petiole.tasks.operations.history_replay import Replay, replay
from petiole.tasks.patterns import shadow_traffic
from petiole.tasks.patterns.gather import Gathered
from petiole.tasks.patterns.idempotency import idempotent
from petiole.tasks.publishing.commit import Publication
from petiole.tasks.requests.requester import PendingResponse
from petiole.tasks.requests.responder import UNANSWERED
from petiole.tasks.resilience.guarded import guarded
from petiole.tasks.resilience.rate_limits import Budget
from petiole.tasks.sessions.session import Session, begin_session, end_session, enter_session, open_session, told_id
from petiole.tasks.settlement.outcomes import Outcome
from petiole.tasks.settlement.retry_policy import RetryPolicy, later
from petiole.tasks.stores.sessions import Participant, SessionFacts
from petiole.tasks.streaming.reader import AnswerReader, Piece
from petiole.tasks.streaming.writer import Draft

__all__ = [
    "UNANSWERED",
    "Agent",
    "AnswerReader",
    "Budget",
    "Context",
    "Draft",
    "EventBus",
    "Gathered",
    "Outcome",
    "Participant",
    "PendingResponse",
    "Piece",
    "Publication",
    "Replay",
    "Response",
    "RetryPolicy",
    "Session",
    "SessionFacts",
    "begin_session",
    "dead_letters",
    "default_bus",
    "end_session",
    "enter_session",
    "guarded",
    "idempotent",
    "later",
    "open_session",
    "publish",
    "publish_many",
    "read_answer",
    "replay",
    "report",
    "request",
    "shadow_traffic",
    "told_id",
]

if __name__ == "tasks":
    # From a checkout's root this file is importable as `tasks` too. Its modules have one name, `petiole.tasks.…`.
    __path__ = []
