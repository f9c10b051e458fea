"""Requests: pending requests and their replies.

Promise: a request id is pending once at a time, from before the request is sent until it is answered or cancelled,
never both. The first reply in time from the responder is delivered; all others are counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from redis import Redis

from petiole.events.catalog.request import ResponseFailureEvent, ResponseSuccessEvent
from petiole.events.event import Event
from petiole.events.ids import stored_request_id
from petiole.events.responses import UnmatchedReply
from petiole.tasks.stores.clock import ServerClock
from petiole.tasks.stores.keys import Keys
from petiole.tasks.stores.scripts import load_script

EXPIRY_MARGIN_MS = 60_000
"""How long a request is kept after its deadline, to distinguish a duplicate reply from a late one."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The request that an event answers (by its stored id), the responder, and the event's id."""

    request_id: str
    responder: str
    response_id: str

    @classmethod
    def of(cls, event: Event) -> Reply | None:
        """Return the request that an event answers, or None."""
        if not isinstance(event, ResponseSuccessEvent | ResponseFailureEvent):
            return None
        return cls(stored_request_id(event.content.request_id), event.content.responder, event.event_id)


@dataclass(frozen=True, slots=True)
class ReplyRegistration:
    """A pending request (by its stored id) and the list that its reply goes to ('': no process waits for it).

    The token identifies the call; another call with the same request id has another token.
    """

    request_type: str
    request_id: str
    responder: str
    token: str
    timeout_s: float
    reply_to: str = ""

    @property
    def timeout_ms(self) -> int:
        """Remaining time in ms, at least 1."""
        return max(1, int(self.timeout_s * 1_000))


class Requests:
    """Pending requests by id."""

    def __init__(self, client: Redis, keys: Keys, clock: ServerClock) -> None:
        self._client = client
        self._clock = clock
        self._keys = keys
        self._register = client.register_script(load_script("register_reply") + load_script("register_request"))
        self._cancel = client.register_script(load_script("cancel_request"))
        self._deliver_reply = client.register_script(load_script("deliver_reply") + load_script("deliver_one_reply"))

    def register(self, registration: ReplyRegistration) -> bool:
        """Register a pending request; returns False if its id is pending already. Safe to repeat."""
        arguments: Iterable[Any] = [
            registration.request_id,
            registration.responder,
            registration.reply_to,
            registration.timeout_ms,
            EXPIRY_MARGIN_MS,
            registration.token,
        ]
        return bool(self._register(keys=[self._keys.requests], args=arguments))

    def forget(self, request_id: str, token: str) -> bool:
        """Cancel a request; returns False if it was answered before."""
        keys = [self._keys.request(request_id), self._keys.requests]
        return bool(self._cancel(keys=keys, args=[request_id, token]))

    def is_owner(self, request_id: str, token: str) -> bool:
        """Return whether the pending request of this id has this token."""
        return self._client.hget(self._keys.request(request_id), "token") == token

    def respond(self, reply: Reply, text: str) -> UnmatchedReply | None:
        """Deliver a reply; returns why not if it could not be delivered. Safe to repeat."""
        outcome = self._deliver_reply(
            keys=[self._keys.requests, self._keys.counters],
            args=[reply.request_id, reply.responder, reply.response_id, text],
        )
        return outcome if outcome in {"late", "wrong_responder", "duplicate"} else None

    def reply_list(self, request_id: str) -> str:
        """Return the key of the list for the reply to one request."""
        return self._keys.request_reply(request_id)

    def new_reply_list(self) -> str:
        """Return a new key of a list for the replies to many requests of one process."""
        return self._keys.async_replies(str(uuid4()))

    def take(self, request_id: str, wait_s: float) -> str | None:
        """Take the reply to a request as JSON text, waiting up to `wait_s` (under 5 s); None if none arrived."""
        if wait_s > 0:
            popped: Any = self._client.blpop([self.reply_list(request_id)], timeout=wait_s)
            entry = popped[1] if popped else None
        else:
            entry = self._client.lpop(self.reply_list(request_id))
        return parse_reply(entry)[1] if entry else None

    def count(self) -> int:
        """Count the pending requests."""
        return int(self._client.zcount(self._keys.requests, f"({self._clock.time_s() * 1_000:.0f}", "+inf"))


def parse_reply(entry: str) -> tuple[str, str]:
    """Split an entry of a reply list into the request's id and the reply's JSON text."""
    # The JSON text has no line end, the id may have some.
    request_id, _, text = entry.rpartition("\n")
    return request_id, text
