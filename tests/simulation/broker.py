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
from typing import Any

from fakeredis import FakeServer
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

from petiole.tasks.consuming.in_process import Traffic, private_transport
from tests.simulation.injection import FaultyRedis, Injector

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
        return f"{self.headers['task']} of {str(self.arguments[0]['event_id'])[:8]}"


class Broker:
    """Queues of both kinds; `client` is one of the server's past all faults."""

    def __init__(self, server: FakeServer, client: Redis, transport: Any, queues: Sequence[str]) -> None:
        self._rng = random.Random()
        self._injector: Injector | None = None
        self._lists = [queue + priority for queue in queues for priority in _PRIORITIES]
        self._server = server
        self._client = client
        self._memory: dict[str, Any] = transport.Channel.queues
        self._held: dict[str, Message] = {}

    def begin(self, rng: random.Random, injector: Injector) -> None:
        """Begin a run, with nothing in any queue."""
        self._rng, self._injector = rng, injector
        self._held.clear()
        for queue in self._memory.values():
            queue.queue.clear()

    def take(self) -> Message | None:
        """Hold a message of any queue; None where all are empty."""
        found = self._from_memory() or self._from_lists()
        if found is not None:
            # A copy that a publisher sent twice has a tag of its own.
            self._held[found.tag] = found
        return found

    def acknowledge(self, message: Message) -> None:
        """Forget a message, unless the acknowledgement goes wrong. Raises ProcessDied, RedisError."""
        assert self._injector is not None
        self._injector.call("ack", lambda: self._held.pop(message.tag, None))

    def give_back(self, message: Message) -> None:
        """Put a message back into its queue, if it is still held."""
        if self._held.pop(message.tag, None) is None:
            return
        if message.origin == "list":
            self._client.rpush(message.queue, message.raw)
        else:
            self._memory[message.queue].put(message.raw)

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
        names = sorted(name for name, queue in self._memory.items() if not queue.empty())
        if not names:
            return None
        name = self._rng.choice(names)
        raw = self._memory[name].get_nowait()
        return _read(raw, queue=name, origin="memory", raw=raw)


def _read(message: dict[str, Any], *, queue: str, origin: str, raw: Any) -> Message:
    arguments = json.loads(base64.b64decode(message["body"]))[0]
    properties = message["properties"]
    return Message(properties["delivery_tag"], queue, message["headers"], arguments, properties, origin, raw)


def sending_transport(state: FaultyRedis) -> Any:
    """Make a memory transport that fails where the client's injector says, as the client of a broker does."""
    transport = private_transport(Traffic())

    class Channel(transport.Channel):  # type: ignore[name-defined,misc]  # a class made at run time
        queues: dict[str, Any] = {}  # noqa: RUF012 - shared by the channels of this one transport, as in kombu

        def _put(self, queue: str, message: Any, **options: Any) -> None:
            try:
                state.injector.call("put", lambda: super(Channel, self)._put(queue, message, **options))
            except RedisError as error:
                raise OperationalError(str(error)) from error

    return type("SimulatedTransport", (transport,), {"Channel": Channel})
