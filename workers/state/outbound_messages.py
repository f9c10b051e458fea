"""Outbound messages: messages to users, for readers such as a command line or a browser.

Promise: a message is appended once per message id and kept for a day, as one of the last MAX_OUTBOUND_MESSAGES of its
stream. `take` returns each message to one caller; `read_after` returns all messages after a position, repeatedly.
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
"""Position before the first message."""

_PAGE_SIZE = 100


_SCRIPTS = "petiole.workers.state.scripts"


class OutboundMessage(BaseModel):
    """One message, with the id of the delivery that sent it."""

    model_config = ConfigDict(frozen=True)

    message_id: str
    text: str


class OutboundMessages:
    """Messages by stream."""

    def __init__(self, client: Redis, keys: StateKeys) -> None:
        self._client = client
        self._keys = keys
        self._append = client.register_script(load_script("append_outbound_message", _SCRIPTS))
        self._take = client.register_script(load_script("take_outbound_message", _SCRIPTS))

    def append(self, stream_id: str, message_id: str, text: str) -> None:
        """Append a message to a stream; a repeated message id is ignored."""
        message = OutboundMessage(message_id=message_id, text=text).model_dump_json()
        keys = [self._keys.outbound_messages(stream_id), self._keys.outbound_message_ids(stream_id)]
        self._append(
            keys=keys, args=[message_id, message, int(OUTBOUND_RETENTION.total_seconds()), MAX_OUTBOUND_MESSAGES]
        )

    def take(self, stream_id: str, timeout_s: float) -> OutboundMessage | None:
        """Take the oldest message not taken yet, waiting up to `timeout_s` (under 5 s); None if there is none."""
        taken = self._take_now(stream_id)
        if taken is None and timeout_s > 0:
            log, cursor = self._keys.outbound_messages(stream_id), self._keys.outbound_message_cursor(stream_id)
            position: Any = self._client.get(cursor)
            self._client.xread({log: position or OUTBOUND_START}, count=1, block=max(1, int(timeout_s * 1_000)))
            taken = self._take_now(stream_id)
        return taken

    def _take_now(self, stream_id: str) -> OutboundMessage | None:
        keys = [self._keys.outbound_messages(stream_id), self._keys.outbound_message_cursor(stream_id)]
        taken = self._take(keys=keys, args=[int(OUTBOUND_RETENTION.total_seconds())])
        return OutboundMessage.model_validate_json(taken) if taken else None


class OutboundMessageReader:
    """The same messages, for readers in an asyncio loop."""

    def __init__(self, client: AsyncRedis, keys: StateKeys) -> None:
        self._client = client
        self._keys = keys

    async def read_after(self, stream_id: str, position: str, timeout_s: float) -> list[tuple[str, OutboundMessage]]:
        """Read the messages after a position with theirs, waiting up to `timeout_s` (under 5 s) for the first."""
        wait_ms = max(1, int(timeout_s * 1_000))
        found: Any = await self._client.xread(
            {self._keys.outbound_messages(stream_id): position}, count=_PAGE_SIZE, block=wait_ms
        )
        entries = next(iter(found.values()))[0] if isinstance(found, dict) and found else found[0][1] if found else []
        return [(str(entry_id), OutboundMessage.model_validate_json(fields["reply"])) for entry_id, fields in entries]
