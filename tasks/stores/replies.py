"""Replies: answers that wait for whoever reads a stream, such as a command line.

Promise: an answer is put there once per message id, and handed to one reader.
"""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel, ConfigDict
from redis import Redis

from tasks.stores.keys import Keys
from tasks.stores.scripts import script

AGE = timedelta(days=1)


class Reply(BaseModel):
    """One answer, under the id of the delivery that made it."""

    model_config = ConfigDict(frozen=True)

    message_id: str
    text: str


class Replies:
    """Unread answers, per stream."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._append = client.register_script(script("append_reply"))

    def append(self, stream_id: str, message_id: str, text: str) -> None:
        """Put an answer at the end of a stream's list; the same message id twice is once."""
        reply = Reply(message_id=message_id, text=text).model_dump_json()
        keys = [self._keys.replies(stream_id), self._keys.reply_ids(stream_id)]
        self._append(keys=keys, args=[message_id, reply, int(AGE.total_seconds())])

    def take(self, stream_id: str, timeout_s: float) -> Reply | None:
        """Take the oldest unread answer, waiting up to `timeout_s` (under 5 s) for one; None where none came."""
        taken = self._client.blpop([self._keys.replies(stream_id)], timeout=timeout_s)
        return Reply.model_validate_json(taken[1]) if taken else None
