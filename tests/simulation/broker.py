"""The broker: queues that a seed takes from, and messages that are given back, late or twice.

What a publication puts in one step stands in lists of the fake server, as on Redis; what Celery sends stands in the
queues of kombu's memory transport. A message that was taken is held until it is acknowledged. A hold may be lost while
its worker still works (a lease that ran out): then the message is handled by two at once.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import Empty
from typing import Any

from fakeredis import FakeServer
from kombu.exceptions import OperationalError
from kombu.transport import memory
from redis import Redis
from redis.exceptions import RedisError

from tasks.testing.worker import Traffic, private_transport
from tests.simulation.injection import Injector

_PRIORITIES = ("", "\x06\x163", "\x06\x166", "\x06\x169")

@dataclass(frozen=True, slots=True)
class Message:
    """A task message as a worker reads it."""

    tag: str
    queue: str
    headers: dict[str, Any]
    arguments: list[Any]
    properties: dict[str, Any] = field(repr=False)
    origin: str = field(repr=False)
    raw: Any = field(repr=False)

    @property
    def shown(self) -> str:
        """Name it in the trace."""
        return f"{self.headers['task']} {str(self.headers['id'])[:8]}"


class Broker:
    """Queues of both kinds; `client` is one of the server's past all faults."""

    def __init__(
        self, server: FakeServer, client: Redis, queues: Sequence[str], rng: random.Random, injector: Injector
    ) -> None:
        self._rng = rng
        self._injector = injector
        self._lists = [queue + priority for queue in queues for priority in _PRIORITIES]
        self._server = server
        self._client = client
        self._held: dict[str, Message] = {}
        self.transport = _sending_transport(injector)

    def take(self) -> Message | None:
        """Hold a message of any queue; None where all are empty."""
        found = self._from_memory() or self._from_lists()
        if found is not None:
            # A copy that a publisher sent twice has a tag of its own.
            self._held[found.tag] = found
        return found

    def acknowledge(self, message: Message) -> None:
        """Forget a message, unless the acknowledgement goes wrong. Raises ProcessDied, RedisError."""
        self._injector.call("ack", lambda: self._held.pop(message.tag, None))

    def give_back(self, message: Message) -> None:
        """Put a message back into its queue, if it is still held."""
        if self._held.pop(message.tag, None) is None:
            return
        if message.origin == "list":
            self._client.rpush(message.queue, message.raw)
        else:
            self._memory.setdefault(message.queue, _queue()).put(message.raw)

    def lose_a_hold(self) -> Message | None:
        """Give back a message whose worker still works; None where nothing is held."""
        if not self._held:
            return None
        message = self._held[self._rng.choice(list(self._held))]
        self.give_back(message)
        return message

    def is_empty(self) -> bool:
        """Tell whether nothing waits and nothing is held."""
        waits = any(not queue.empty() for queue in self._memory.values()) or self._lists_with_messages()
        return not waits and not self._held

    @property
    def _memory(self) -> dict[str, Any]:
        queues: dict[str, Any] = self.transport.Channel.queues
        return queues

    def _from_lists(self) -> Message | None:
        waiting = self._lists_with_messages()
        if not waiting:
            return None
        name = self._rng.choice(waiting)
        text = str(self._client.rpop(name))
        return _read(json.loads(text), queue=name, origin="list", raw=text)

    def _lists_with_messages(self) -> list[str]:
        # Asked by a command for each, this would be half of a run's time.
        return [name for name in self._lists if name.encode() in self._server.dbs[0]]

    def _from_memory(self) -> Message | None:
        names = sorted(self._memory)
        self._rng.shuffle(names)
        for name in names:
            try:
                raw = self._memory[name].get_nowait()
            except Empty:
                continue
            return _read(raw, queue=name, origin="memory", raw=raw)
        return None


def _read(message: dict[str, Any], *, queue: str, origin: str, raw: Any) -> Message:
    arguments = json.loads(base64.b64decode(message["body"]))[0]
    properties = message["properties"]
    return Message(properties["delivery_tag"], queue, message["headers"], arguments, properties, origin, raw)


def _queue() -> Any:
    return memory.Queue()


def _sending_transport(injector: Injector) -> Any:
    """Make a memory transport whose sending goes through the injector, and fails as a broker's client does."""
    transport = private_transport(Traffic())

    class Channel(transport.Channel):  # type: ignore[name-defined,misc]  # a class made at run time
        queues: dict[str, Any] = {}  # noqa: RUF012 - shared by the channels of this one transport, as in kombu

        def _put(self, queue: str, message: Any, **options: Any) -> None:
            try:
                injector.call("put", lambda: super(Channel, self)._put(queue, message, **options))
            except RedisError as error:
                raise OperationalError(str(error)) from error

    return type("SimulatedTransport", (transport,), {"Channel": Channel})
