"""The channel of a simulated process: the true one, over connections to the fake server that go wrong."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import hiredis
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from petiole.tasks.transport.channel import Channel
from petiole.tasks.transport.commands import TransportCommands
from petiole.tasks.transport.transport import Transport
from tests.simulation.injection import FaultyRedis, name_of

Words: TypeAlias = tuple[Any, ...]


class Wire:
    """The connection on which a channel sends its fetches and waits for wake-ups, and reads the answers later.

    Commands are executed in order, at some moment between the two; none is while the one before it waits for a wake-up.
    Those whose connection was lost may be executed nevertheless.
    """

    _sock = None

    def __init__(self, client: FaultyRedis) -> None:
        self.connection = self
        self._client = client
        self._rng = client.injector.rng
        self._pending: deque[Words] = deque()
        self._unread: deque[Words] = deque()
        self._answers: deque[Any] = deque()
        self._give_up_at = 0.0

    def ping(self) -> None:
        """Connect."""
        self._client.ping()

    def send_packed_command(self, packed: Iterable[bytes]) -> None:
        """Send commands."""
        reader = hiredis.Reader()
        for command in packed:
            reader.feed(command)
            words: Any = reader.gets()
            words = (words[0].decode(), *words[1:])
            self._pending.append(words)
            self._unread.append(words)
        if self._is_waiting():
            self._give_up_at = time.time() + float(self._pending[0][-1])
        elif self._rng.random() < 0.5:
            self._execute()

    def is_ready(self) -> bool:
        """Tell whether an answer can be read."""
        if self._is_waiting():
            self._execute()
        return bool(self._answers) or not self._is_waiting()

    def parse_response(self, *_: object, **__: object) -> Any:
        """Read the next answer, unless the connection is lost."""
        return self._client.injector.call(name_of(self._unread.popleft()), self._read)

    def disconnect(self) -> None:
        """Lose the connection."""
        if self._rng.random() < 0.5:
            self._execute()
        for each in (self._pending, self._unread, self._answers):
            each.clear()

    def _read(self) -> Any:
        self._execute()
        if not self._answers:
            # Whoever reads a wait for a wake-up that does not come reads it when it gives up.
            self._give_up_at = 0.0
            self._execute()
        answer = self._answers.popleft()
        if isinstance(answer, RedisError):
            raise answer
        return answer

    def _is_waiting(self) -> bool:
        return bool(self._pending) and self._pending[0][0] == "BZPOPMIN"

    def _execute(self) -> None:
        while self._pending:
            if not self._is_waiting():
                words = self._pending.popleft()
                try:
                    self._answers.append(self._client.execute_now(name_of(words), *words))
                except RedisError as error:
                    self._answers.append(error)
                continue
            keys = self._pending[0][1:-1]
            if self._client.execute_now("EXISTS", "EXISTS", *keys):
                popped = (self._client.execute_now("ZPOPMIN", "ZPOPMIN", key) for key in keys)
                self._answers.append(next(filter(None, popped)))
            elif time.time() >= self._give_up_at:
                self._answers.append(None)
            else:
                return
            self._pending.popleft()


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
