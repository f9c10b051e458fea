"""Requests: who waits for which answer.

Promise: a request is waited for under its id once at a time, from before it is sent until it is answered or given up,
and never both. Of all answers the first in time from its responder reaches who waits; the others are counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from redis import Redis

from petiole.events.catalog.request import ResponseFailureEvent, ResponseSuccessEvent
from petiole.events.event import Event
from petiole.events.responses import UnmatchedReply
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.scripts import load_script

EXPIRY_MARGIN_MS = 60_000
"""How long it is known that a request was answered, beyond its deadline: to tell a second answer from a late one."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Which request an event answers, by whom, and the event's id."""

    request_id: str
    responder: str
    response_id: str

    @classmethod
    def of(cls, event: Event) -> Reply | None:
        """Return which request an event answers; None where it answers none."""
        if not isinstance(event, ResponseSuccessEvent | ResponseFailureEvent):
            return None
        return cls(event.content.request_id, event.content.responder, event.event_id)


@dataclass(frozen=True, slots=True)
class ReplyRegistration:
    """Who waits for an answer to which request: the list that it goes to ('': nobody waits in a process of its own).

    The token is of this one call: a second one under the same id is another's.
    """

    request_type: str
    request_id: str
    responder: str
    token: str
    timeout_s: float
    reply_to: str = ""

    @property
    def timeout_ms(self) -> int:
        """The time that is left."""
        return max(1, int(self.timeout_s * 1_000))


class Requests:
    """Requests that are waited for, by id."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._register = client.register_script(load_script("register_reply") + load_script("register_request"))
        self._forget = client.register_script(load_script("cancel_request"))
        self._respond = client.register_script(load_script("deliver_reply") + load_script("deliver_one_reply"))

    def register(self, registration: ReplyRegistration) -> bool:
        """Note that somebody waits; False where somebody else does already. Safe to repeat."""
        said = registration
        arguments: Iterable[Any] = [
            said.request_id,
            said.responder,
            said.reply_to,
            said.timeout_ms,
            EXPIRY_MARGIN_MS,
            said.token,
        ]
        return bool(self._register(keys=[self._keys.requests], args=arguments))

    def forget(self, request_id: str, token: str) -> bool:
        """Give a request up. Returns whether that was in time: False where its answer is there already."""
        keys = [self._keys.request(request_id), self._keys.requests]
        return bool(self._forget(keys=keys, args=[request_id, token]))

    def is_owner(self, request_id: str, token: str) -> bool:
        """Tell whether the request of that id was made under that token."""
        return self._client.hget(self._keys.request(request_id), "token") == token

    def respond(self, reply: Reply, text: str) -> UnmatchedReply | None:
        """Hand an answer to who waits for it; says why not, where it reached nobody. Safe to repeat."""
        outcome = self._respond(
            keys=[self._keys.requests, self._keys.counters],
            args=[reply.request_id, reply.responder, reply.response_id, text],
        )
        return outcome if outcome in {"late", "wrong_responder", "duplicate"} else None

    def reply_list(self, request_id: str) -> str:
        """Name the list that the answer to one request goes to."""
        return self._keys.request_reply(request_id)

    def new_reply_list(self) -> str:
        """Name a list for the answers to many requests of one process."""
        return self._keys.request_reply(f"async:{uuid4()}")

    def take(self, request_id: str, wait_s: float) -> str | None:
        """Take the answer to a request, as JSON text, waiting up to `wait_s` (under 5 s); None where none came."""
        if wait_s > 0:
            found: Any = self._client.blpop([self.reply_list(request_id)], timeout=wait_s)
            said = found[1] if found else None
        else:
            said = self._client.lpop(self.reply_list(request_id))
        return parse_reply(said)[1] if said else None

    def count(self) -> int:
        """Count the requests that are waited for."""
        return int(self._client.zcount(self._keys.requests, f"({time.time() * 1_000:.0f}", "+inf"))


def parse_reply(entry: str) -> tuple[str, str]:
    """Part what stands in a list of answers: the request's id, and the answer's JSON text."""
    request_id, _, text = entry.partition("\n")
    return request_id, text
