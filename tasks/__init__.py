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
    approvals.grant(…)                             approvals.py     tool calls that somebody grants or denies
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

from tasks import approvals, dead_letters, shadows
from tasks.agents import Agent
from tasks.breakers.guards import guarded
from tasks.budgets import Budget
from tasks.context import Context
from tasks.dispatch import Publication
from tasks.drafts.reading import AnswerReader, Piece, read_answer
from tasks.drafts.writing import Draft
from tasks.error_channel import report
from tasks.gathering import Gathered
from tasks.idempotence import idempotent
from tasks.outcomes import Outcome
from tasks.publication import publish, publish_many
from tasks.replays import Replay, replay
from tasks.requests.answering import UNANSWERED
from tasks.requests.asking import PendingResponse, request
from tasks.requests.responses import Response
from tasks.retries import RetryPolicy, later
from tasks.sessions.session import Session, begin_session, end_session, enter_session, open_session, told_id
from tasks.stores.sessions import Participant, SessionFacts

__all__ = [
    "UNANSWERED",
    "Agent",
    "AnswerReader",
    "Budget",
    "Context",
    "Draft",
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
    "approvals",
    "begin_session",
    "dead_letters",
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
    "shadows",
    "told_id",
]
