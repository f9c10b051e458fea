"""Transport: kombu's Redis transport with batching channels."""

from __future__ import annotations

import os
from dataclasses import dataclass
from queue import Empty
from time import monotonic, sleep
from typing import Any

from kombu.transport import redis as stock

from petiole.tasks.transport import kombu_compat
from petiole.tasks.transport.address import kombu_connection
from petiole.tasks.transport.channel import Channel, SentinelChannel

CONNECT_TIMEOUT_S, CONNECT_RETRY_S = 2.0, 0.1


@dataclass(frozen=True, slots=True)
class KombuAddress:
    """The address of a channel, in the two attributes that kombu reads from its transport."""

    client: Any
    default_port: int


class Poller(stock.MultiChannelPoller):
    """The hooks that the event loop calls before it waits; without an event loop, it waits itself."""

    _channels: set[Channel]
    _fd_to_chan: dict[int, tuple[Any, str]]

    def on_poll_start(self) -> None:
        """Send the pending commands of each channel."""
        super().on_poll_start()
        for channel in self._channels:
            channel.check_response_timeout()
            channel.renew_if_overdue()
            channel.send_pending_acks()

    # A reply that was asked for is read also if the worker may hold no more meanwhile; what is too much is given back.
    # Kombu would leave it unread until the worker may hold it, and the connection would be taken for a dead one.

    def _update_brpop_polling(self) -> None:
        """Wait for the reply of each channel."""

    def on_readable(self, fileno: int) -> Any:
        """Read the reply of a channel."""
        channel, kind = self._fd_to_chan.get(fileno, (None, ""))
        if kind == "BRPOP" and channel._in_poll:  # noqa: SLF001 - kombu's
            return channel.handlers[kind]()
        return super().on_readable(fileno)

    def get(self, callback: Any, timeout: float | None = None) -> None:
        """Hand over one message, or wait for one. Raises Empty after the timeout."""
        if any(channel.deliver_backlog() for channel in list(self._channels)):
            return
        try:
            super().get(callback, timeout)
        except Empty:
            # Kombu looks for expired messages only if nothing was read. Here it may have read a wake-up.
            self.maybe_restore_messages()
            raise


class Transport(stock.Transport):
    """Kombu's Redis transport without lost messages, and with fewer round trips."""

    Channel: Any = Channel
    loop: Any = None
    worker_pid: int | None = None
    _avail_channels: Any

    def __init__(self, client: Any, **options: Any) -> None:
        kombu_compat.check_kombu()
        super().__init__(client, **options)
        address = kombu_connection(client)
        if address.transport_cls == "sentinel":
            self.Channel = SentinelChannel
            self.default_port = stock.SentinelTransport.default_port
        self.address = KombuAddress(address, self.default_port)
        self.cycle = Poller()

    def establish_connection(self) -> Any:
        """Connect; in a worker that was connected before, retry for two seconds.

        Celery would wait two seconds after the first failure and four after the next, but a broker restarts in less
        than one.
        """
        is_in_worker = Transport.worker_pid == os.getpid()
        deadline = monotonic() + (CONNECT_TIMEOUT_S if is_in_worker else 0)
        while True:
            try:
                return self._connect()
            except self.connection_errors:
                if monotonic() >= deadline:
                    raise
                sleep(CONNECT_RETRY_S)

    def _connect(self) -> Any:
        """Connect to a server that accepts writes; a worker waits for one here, with pauses that grow."""
        connection = super().establish_connection()
        try:
            self._avail_channels[-1].check_writable()
        except self.connection_errors:
            self._avail_channels.pop().close()
            raise
        return connection

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Register with the worker's event loop, which lets acks and small fetches wait to be batched."""
        super().register_with_event_loop(connection, loop)
        self.loop = loop
        # Kombu's current event loop is no substitute: after a lost connection there is none for a while.
        Transport.worker_pid = os.getpid()
