"""Aside: bytes that stood in a queue and are no message, until somebody has seen to them; and texts as they arrived."""

from __future__ import annotations

from json import JSONDecoder

from petiole.tasks.transport.requeue import RequeueChannel

decode_json = JSONDecoder().raw_decode


class Quarantine(RequeueChannel):
    """A channel that tells what was set aside, oldest first."""

    def first_undecodable(self) -> tuple[str, bytes, bytes] | None:
        """Read the oldest bytes that were set aside: the queue they were in, the bytes, and how they are kept."""
        entry = self._commands.first_undecodable()
        if entry is None:
            return None
        head, mark, text = entry.partition(b"\n")
        bell, ending = head.decode(errors="replace"), f"{self.sep}wakeup"
        if not mark or not bell.endswith(ending):
            return "", entry, entry
        return bell.removeprefix(self.global_keyprefix).removesuffix(ending), text, entry

    def delete_undecodable(self, entry: bytes) -> None:
        """Remove bytes that were set aside, and are kept elsewhere by now."""
        self._commands.forget_undecodable(entry)

    def text_of(self, tag: str) -> bytes | None:
        """Read the text of a message as it stood in its queue, as long as it is unacked."""
        for unacked in self._commands.read_unacked([tag]):
            entry = unacked.entry.decode("utf-8", "surrogateescape")
            # Kombu's [message, exchange, routing key]: the first value of that list, as it is written.
            end = decode_json(entry, 1)[1]
            return entry[1:end].encode("utf-8", "surrogateescape")
        return None
