"""Requeue messages that were rejected, left unacknowledged, or whose lease expired; create the channel's clients."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import redis
from kombu.transport import redis as stock
from kombu.utils.json import dumps, loads

from petiole.tasks.transport.commands import Fetched, RequeuedMessage, TransportCommands, TransportKeys, Unacked
from petiole.tasks.transport.consumer_id import current_consumer_id
from petiole.tasks.transport.message import DECODE_ERRORS

if TYPE_CHECKING:

    class _Stock(stock.Channel):
        # Kombu's private attributes, which the stubs leave out.
        connection: Any
        _basic_cancel: Any
        _after_fork: Any
        _get_pool: Any
        _put: Any

        def __getattr__(self, name: str) -> Any: ...
else:
    _Stock = object

logger = logging.getLogger(__name__)

# Messages requeued in one script call.
REQUEUE_BATCH_SIZE = 100

ItemT = TypeVar("ItemT")
ListPush = Literal["LPUSH", "RPUSH"]  # consumers take from the right


class RequeueChannel(_Stock):
    """A channel of kombu's that reuses one client, and requeues by compare and move."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._cached_client: Any = None
        self._cached_commands: TransportCommands | None = None
        super().__init__(*args, **options)

    # Clients

    @contextmanager
    def conn_or_acquire(self, client: Any | None = None) -> Iterator[Any]:
        """Yield the cached client. It takes a pooled connection per command, so threads may share it."""
        if self._cached_client is None or self._cached_client.connection_pool is not self.pool:
            self._cached_client = self._create_client()
        yield client or self._cached_client

    @property
    def _commands(self) -> TransportCommands:
        if self._cached_commands is None or self._cached_commands.client.connection_pool is not self.pool:
            self._cached_commands = TransportCommands(
                redis.Redis(connection_pool=self.pool),
                TransportKeys(
                    unacked=self._key(self.unacked_key),
                    index=self._key(self.unacked_index_key),
                    leased=self._key(f"{self.unacked_key}{self.sep}leased"),
                    consumers=self._key(f"{self.unacked_key}{self.sep}consumers"),
                    undecodable=self._key(f"{self.unacked_key}{self.sep}undecodable"),
                ),
                current_consumer_id(),
            )
        return self._cached_commands

    def _get_pool(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's
        if self.connection is None or self.connection.client is None:
            raise redis.ConnectionError("the connection to the broker is closed")
        # Kombu reads the address from its transport, and does not accept our prefix.
        transport, self.connection = self.connection, self.connection.address
        try:
            return super()._get_pool(asynchronous)
        finally:
            self.connection = transport

    def _key(self, name: str) -> str:
        return f"{self.global_keyprefix}{name}"

    def _wakeup_key(self, queue: str) -> str:
        return self._key(f"{queue}{self.sep}wakeup")

    # Requeueing

    def requeue(self, tags: Sequence[str], end: ListPush) -> None:
        """Requeue messages that are leased to this process; the first of them is fetched first."""
        for chunk in _chunks(_order_for_push(tags, end)):
            self._requeue(_order_for_push(self._commands.read_unacked(chunk), end), end)

    def _requeue(self, messages: Sequence[Unacked], end: ListPush, silent_before: str = "-inf") -> None:
        for chunk in _chunks(_order_for_push(messages, end)):
            parsed = (self._parse_unacked(unacked) for unacked in chunk)
            self._commands.requeue([message for message in parsed if message], end, silent_before)

    def _parse_unacked(self, unacked: Unacked) -> RequeuedMessage | None:
        try:
            return self._build_requeued(unacked)
        except DECODE_ERRORS:
            # Its consumer could not decode it either, and crashed before it was quarantined.
            logger.critical("message.quarantined", extra={"source": "unacked", "bytes": repr(unacked.entry[:200])})
            self._commands.quarantine(Fetched("", unacked.tag, unacked.entry), self._wakeup_key(""))
            return None

    def _build_requeued(self, unacked: Unacked) -> RequeuedMessage:
        payload, exchange, routing_key = loads(unacked.entry)
        with suppress(KeyError, TypeError):
            payload["headers"]["redelivered"] = True
            payload["properties"]["delivery_info"]["redelivered"] = True
        priority = self._get_message_priority(payload, reverse=False)
        # Kombu drops a message without a bound queue. A queue with the routing key's name keeps it visible.
        queues = self._lookup(exchange, routing_key) or [routing_key]
        lists = [(self._key(self._q_for_pri(queue, priority)), self._wakeup_key(queue)) for queue in queues]
        return RequeuedMessage(unacked, lists, dumps(payload))


def _order_for_push(messages: Sequence[ItemT], end: ListPush) -> Sequence[ItemT]:
    """Order messages for pushing, so that the first is fetched first."""
    return messages if end == "LPUSH" else messages[::-1]


def _chunks(messages: Sequence[ItemT]) -> Iterator[Sequence[ItemT]]:
    for start in range(0, len(messages), REQUEUE_BATCH_SIZE):
        yield messages[start : start + REQUEUE_BATCH_SIZE]
