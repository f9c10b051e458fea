"""The channel of a simulated process: the true one, over connections to the fake server that go wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from petiole.tasks.transport.channel import Channel
from petiole.tasks.transport.commands import TransportCommands
from petiole.tasks.transport.transport import Transport
from tests.simulation.injection import FaultyRedis, name_of


class Wire:
    """The connection on which a channel sends its fetches and waits for wake-ups, and reads the answers later.

    A command is executed at some moment between the two. One whose connection was lost may be executed nevertheless.
    """

    _sock = None

    def __init__(self, client: FaultyRedis) -> None:
        self.connection = self
        self._client = client
        self._rng = client.injector.rng
        self._command: tuple[Any, ...] = ()
        self._is_pending = False
        self._answer: Any = None
        self._give_up_at = 0.0

    def ping(self) -> None:
        """Connect."""
        self._client.ping()

    def send_command(self, *words: Any) -> None:
        """Send a command."""
        self._command, self._answer = words, None
        self._is_pending = words[0] != "BZPOPMIN"
        if not self._is_pending:
            self._give_up_at = time.time() + words[-1]
        elif self._rng.random() < 0.5:
            self._execute()

    def is_ready(self) -> bool:
        """Tell whether an answer can be read."""
        if self._command[0] == "BZPOPMIN" and self._answer is None:
            keys = self._command[1:-1]
            if self._client.execute_now("EXISTS", "EXISTS", *keys):
                answers = (self._client.execute_now("ZPOPMIN", "ZPOPMIN", key) for key in keys)
                self._answer = next(filter(None, answers))
            return self._answer is not None or time.time() >= self._give_up_at
        return True

    def parse_response(self, *_: object, **__: object) -> Any:
        """Read the answer, unless the connection is lost."""
        return self._client.injector.call(name_of(self._command), self._read)

    def disconnect(self) -> None:
        """Lose the connection."""
        if self._rng.random() < 0.5:
            self._execute()
        self._is_pending = False

    def _read(self) -> Any:
        self._execute()
        if isinstance(self._answer, RedisError):
            raise self._answer
        return self._answer

    def _execute(self) -> None:
        if self._is_pending:
            self._is_pending = False
            try:
                self._answer = self._client.execute_now(name_of(self._command), *self._command)
            except RedisError as error:
                self._answer = error


class SimulatedChannel(Channel):
    """A channel whose commands go through the injector."""

    def __init__(self, connection: Any, **options: Any) -> None:
        self._clients: tuple[FaultyRedis, Any] = connection.client.transport_options["clients"]
        super().__init__(connection, **options)

    def _create_client(self, asynchronous: bool = False) -> Any:
        faulty, faultless = self._clients
        return Wire(faulty) if asynchronous else faultless

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """Yield a client past all faults; `_put` has its own."""
        yield client or self._clients[1]

    @property
    def _commands(self) -> TransportCommands:
        if self.closed and (self.connection is None or self.connection.client is None):
            raise RedisConnectionError("the connection to the broker is closed")
        if self._cached_commands is None:
            self._cached_commands = TransportCommands(
                self._clients[0], self.state_prefix, self.consumer_id, self.priority_steps
            )
        return self._cached_commands

    def _put(self, queue: str, message: Any, *args: Any, **options: Any) -> None:
        try:
            self._clients[0].injector.call("put", lambda: Channel._put(self, queue, message, *args, **options))
        except RedisError as error:
            raise OperationalError(str(error)) from error

    def _disconnect_pools(self) -> None:
        pass


class SimulatedTransport(Transport):
    """A transport with such channels."""

    Channel = SimulatedChannel
