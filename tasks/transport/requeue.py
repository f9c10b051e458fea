"""What goes back to its queue: rejected, left unacked, or taken from somebody else; and the clients for it."""

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
        # The stubs leave out what is private.
        connection: Any
        _basic_cancel: Any
        _after_fork: Any
        _get_pool: Any
        _put: Any

        def __getattr__(self, name: str) -> Any: ...
else:
    _Stock = object

logger = logging.getLogger(__name__)

# How many go back in one step.
REQUEUE_BATCH_SIZE = 100

ItemT = TypeVar("ItemT")
ListPush = Literal["LPUSH", "RPUSH"]  # consumers take from the right


class RequeueChannel(_Stock):
    """A channel of kombu's that keeps its client, and gives back by compare and move."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._kept: Any = None
        self._kept_steps: TransportCommands | None = None
        super().__init__(*args, **options)

    # Clients

    @contextmanager
    def conn_or_acquire(self, client: Any | None = None) -> Iterator[Any]:
        """Give the one kept client. It takes a connection of the pool for each command, so threads may share it."""
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = self._create_client()
        yield client or self._kept

    @property
    def _commands(self) -> TransportCommands:
        if self._kept_steps is None or self._kept_steps.client.connection_pool is not self.pool:
            self._kept_steps = TransportCommands(
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
        return self._kept_steps

    def _get_pool(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's
        if self.connection is None or self.connection.client is None:
            raise redis.ConnectionError("the connection to the broker is gone")
        # Kombu asks its transport for the address, and knows no prefix.
        transport, self.connection = self.connection, self.connection.address
        try:
            return super()._get_pool(asynchronous)
        finally:
            self.connection = transport

    def _key(self, name: str) -> str:
        return f"{self.global_keyprefix}{name}"

    def _wakeup_key(self, queue: str) -> str:
        return self._key(f"{queue}{self.sep}wakeup")

    # Giving back

    def requeue(self, tags: Sequence[str], end: ListPush) -> None:
        """Put messages back that this process still holds; the first of them is the first to be taken again."""
        for chunk in _chunks(_order_for_push(tags, end)):
            self._requeue(_order_for_push(self._commands.read_unacked(chunk), end), end)

    def _requeue(self, messages: Sequence[Unacked], end: ListPush, silent_before: str = "-inf") -> None:
        for chunk in _chunks(_order_for_push(messages, end)):
            self._commands.requeue(
                [each for unacked in chunk if (each := self._parse_unacked(unacked))], end, silent_before
            )

    def _parse_unacked(self, unacked: Unacked) -> RequeuedMessage | None:
        try:
            return self._build_requeued(unacked)
        except DECODE_ERRORS:
            # Who took it could not read it either, and died before it was set aside.
            logger.critical("kept bytes that are no message, from the unacked: %.200r", unacked.entry)
            self._commands.quarantine(Fetched("", unacked.tag, unacked.entry), self._wakeup_key(""))
            return None

    def _build_requeued(self, unacked: Unacked) -> RequeuedMessage:
        payload, exchange, routing_key = loads(unacked.entry)
        with suppress(KeyError, TypeError):
            payload["headers"]["redelivered"] = True
            payload["properties"]["delivery_info"]["redelivered"] = True
        priority = self._get_message_priority(payload, reverse=False)
        # Kombu drops what no queue is bound for; a queue of the key's name keeps it where it can be seen.
        queues = self._lookup(exchange, routing_key) or [routing_key]
        lists = [(self._key(self._q_for_pri(queue, priority)), self._wakeup_key(queue)) for queue in queues]
        return RequeuedMessage(unacked, lists, dumps(payload))


def _order_for_push(messages: Sequence[ItemT], end: ListPush) -> Sequence[ItemT]:
    """Order messages so that the first ends up nearest to the consumers."""
    return messages if end == "LPUSH" else messages[::-1]


def _chunks(messages: Sequence[ItemT]) -> Iterator[Sequence[ItemT]]:
    for start in range(0, len(messages), REQUEUE_BATCH_SIZE):
        yield messages[start : start + REQUEUE_BATCH_SIZE]
