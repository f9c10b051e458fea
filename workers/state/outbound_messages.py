"""Replies: answers that wait for whoever reads a stream, such as a command line or a browser.

Promise: an answer is put there once per message id, and stays for a day, as one of the last LENGTH of its stream. Who
takes is handed each answer once, whoever else takes; who reads sees all after a place that they name, as often as they
like.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from pydantic import BaseModel, ConfigDict
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from petiole.tasks.stores.scripts import load_script
from petiole.workers.state.keys import StateKeys

OUTBOUND_RETENTION = timedelta(days=1)
MAX_OUTBOUND_MESSAGES = 1_000
OUTBOUND_START: Final = "0-0"
"""The place before the first answer."""

_PAGE_SIZE = 100


_SCRIPTS = "petiole.workers.state.scripts"


class OutboundMessage(BaseModel):
    """One answer, under the id of the delivery that made it."""

    model_config = ConfigDict(frozen=True)

    message_id: str
    text: str


class OutboundMessages:
    """Answers, per stream."""

    def __init__(self, client: Redis, keys: StateKeys) -> None:
        self._client = client
        self._keys = keys
        self._append = client.register_script(load_script("append_outbound_message", _SCRIPTS))
        self._take = client.register_script(load_script("take_outbound_message", _SCRIPTS))

    def append(self, stream_id: str, message_id: str, text: str) -> None:
        """Put an answer at the end of a stream's log; the same message id twice is once."""
        reply = OutboundMessage(message_id=message_id, text=text).model_dump_json()
        keys = [self._keys.outbound_messages(stream_id), self._keys.outbound_message_ids(stream_id)]
        self._append(
            keys=keys, args=[message_id, reply, int(OUTBOUND_RETENTION.total_seconds()), MAX_OUTBOUND_MESSAGES]
        )

    def take(self, stream_id: str, timeout_s: float) -> OutboundMessage | None:
        """Take the oldest answer that nobody took, waiting up to `timeout_s` (under 5 s) for one; None: none came."""
        taken = self._take_now(stream_id)
        if taken is None and timeout_s > 0:
            log, last = self._keys.outbound_messages(stream_id), self._keys.outbound_message_cursor(stream_id)
            place: Any = self._client.get(last)
            self._client.xread({log: place or OUTBOUND_START}, count=1, block=max(1, int(timeout_s * 1_000)))
            taken = self._take_now(stream_id)
        return taken

    def _take_now(self, stream_id: str) -> OutboundMessage | None:
        keys = [self._keys.outbound_messages(stream_id), self._keys.outbound_message_cursor(stream_id)]
        taken = self._take(keys=keys, args=[int(OUTBOUND_RETENTION.total_seconds())])
        return OutboundMessage.model_validate_json(taken) if taken else None


class OutboundMessageReader:
    """The same answers, for readers in an asyncio loop."""

    def __init__(self, client: AsyncRedis, keys: StateKeys) -> None:
        self._client = client
        self._keys = keys

    async def read_after(self, stream_id: str, position: str, timeout_s: float) -> list[tuple[str, OutboundMessage]]:
        """Read the answers after a place, each with its own, waiting up to `timeout_s` (under 5 s) for the first."""
        wait_ms = max(1, int(timeout_s * 1_000))
        found: Any = await self._client.xread(
            {self._keys.outbound_messages(stream_id): position}, count=_PAGE_SIZE, block=wait_ms
        )
        entries = next(iter(found.values()))[0] if isinstance(found, dict) and found else found[0][1] if found else []
        return [(str(entry_id), OutboundMessage.model_validate_json(fields["reply"])) for entry_id, fields in entries]
