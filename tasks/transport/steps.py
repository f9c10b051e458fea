"""The Lua steps as functions, on one client. Keys come whole: the client adds no prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from redis import Redis

from tasks.transport.scripts import script

PUT = script("put")

Command = tuple[str | bytes | int | float, ...]


class Taken(NamedTuple):
    """A message that left its queue. Without a tag, nothing remembers it but who took it."""

    queue: str
    tag: str
    text: bytes


class Unacked(NamedTuple):
    """What the broker remembers of a message that was taken: kombu's [message, exchange, routing key], as JSON."""

    tag: str
    entry: bytes


class Returning(NamedTuple):
    """A message on its way back, and for each of its queues the list and the bell."""

    tag: str
    lists: Sequence[tuple[str, str]]
    text: str


@dataclass(frozen=True, slots=True)
class Source:
    """A queue to take from: its lists in order of priority. What is not recorded cannot be given back."""

    queue: str
    bell: str
    lists: Sequence[str]
    is_recorded: bool


class Steps:
    """The atomic steps of one channel."""

    def __init__(self, client: Redis, *, unacked: str, index: str, undecodable: str) -> None:
        self.client = client
        self._held = (unacked, index)
        self._undecodable = undecodable
        self._turn = client.register_script(script("turn"))
        self._expired = client.register_script(script("expired"))
        self._requeue = client.register_script(script("requeue"))

    def turn_command(self, sources: Sequence[Source], credit: int, acks: Sequence[str], order: str) -> Command:
        """Word a turn for a connection that will read the answer later; `read_turn` reads it."""
        keys, arguments = self._turn_words(sources, credit, acks, order)
        return ("EVALSHA", str(self._turn.sha), len(keys), *keys, *arguments)

    def turn(self, sources: Sequence[Source], credit: int, acks: Sequence[str], order: str = "fair") -> list[Taken]:
        """Forget what was acknowledged and take up to `credit` messages, now."""
        keys, arguments = self._turn_words(sources, credit, acks, order)
        return self.read_turn(self._turn(keys, arguments), sources)

    @staticmethod
    def read_turn(answer: Sequence[Any], sources: Sequence[Source]) -> list[Taken]:
        """Read the answer to a turn."""
        triples = zip(answer[::3], answer[1::3], answer[2::3], strict=True)
        return [Taken(sources[place - 1].queue, tag.decode(), text) for place, tag, text in triples]

    def load_turn(self) -> None:
        """Give the server the script that a restart made it forget."""
        self.client.script_load(script("turn"))

    def expired(self, age_s: float, limit: int) -> tuple[float, list[Unacked]]:
        """Find what has been unacked for longer than `age_s`, oldest first, and the time before which it was taken."""
        before, *found = self._expired(self._held, (age_s, limit))
        pairs = zip(found[::2], found[1::2], strict=True)
        return float(before), [Unacked(tag.decode(), entry) for tag, entry in pairs]

    def recall(self, tags: Sequence[str]) -> list[Unacked]:
        """Read what is still unacked of these messages."""
        entries: Any = self.client.hmget(self._held[0], list(tags)) if tags else []
        return [Unacked(tag, entry) for tag, entry in zip(tags, entries, strict=True) if entry]

    def requeue(
        self, messages: Sequence[Returning], end: Literal["LPUSH", "RPUSH"], before: float | Literal["inf"] = "inf"
    ) -> int:
        """Give messages back to their queues, as far as they are still unacked; return how many went."""
        keys = [key for message in messages for pair in message.lists for key in pair]
        words = [word for message in messages for word in (message.tag, len(message.lists), message.text)]
        return int(self._requeue([*self._held, *keys], [end, before, *words]) if messages else 0)

    def set_aside(self, message: Taken, bell: str) -> None:
        """Keep bytes that are no message, below the bell of their queue, until somebody sees to them."""
        with self.client.pipeline() as pipeline:
            pipeline.rpush(self._undecodable, f"{bell}\n".encode() + message.text)
            pipeline.hdel(self._held[0], message.tag)
            pipeline.zrem(self._held[1], message.tag)
            pipeline.execute()

    def first_undecodable(self) -> bytes | None:
        """Read what has been set aside for the longest time: the bell of its queue, a line break, the bytes."""
        first: Any = self.client.lindex(self._undecodable, 0)
        return first if isinstance(first, bytes) else None

    def forget_undecodable(self, entry: bytes) -> None:
        """Remove what was set aside, and is kept elsewhere by now."""
        self.client.lrem(self._undecodable, 1, entry)  # type: ignore[arg-type]  # the stubs want text; bytes are sent as they are

    def _turn_words(
        self, sources: Sequence[Source], credit: int, acks: Sequence[str], order: str
    ) -> tuple[list[str], list[str | int]]:
        # All queues' lists of the first priority come before any queue's of the second.
        lists = [key for step in zip(*(source.lists for source in sources), strict=True) for key in step]
        keys = [*self._held, self._undecodable, *(source.bell for source in sources), *lists]
        how = ["record" if source.is_recorded else "pass" for source in sources]
        return keys, [credit, order, len(sources), *how, *acks]
