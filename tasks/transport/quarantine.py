"""Quarantine: invalid messages that were taken out of queues; and the original text of an unacknowledged message."""

from __future__ import annotations

from json import JSONDecoder

from petiole.tasks.transport.requeue import RequeueChannel

decode_json = JSONDecoder().raw_decode


class Quarantine(RequeueChannel):
    """A channel that reads the quarantined messages, oldest first."""

    def first_undecodable(self) -> tuple[str, bytes, bytes] | None:
        """Return the queue and the bytes of the oldest quarantined message, and its entry for `delete_undecodable`."""
        entry = self._commands.first_undecodable()
        if entry is None:
            return None
        head, newline, text = entry.partition(b"\n")
        wakeup_key, suffix = head.decode(errors="replace"), f"{self.sep}wakeup"
        if not newline or not wakeup_key.endswith(suffix):
            return "", entry, entry
        return wakeup_key.removeprefix(self.global_keyprefix).removesuffix(suffix), text, entry

    def delete_undecodable(self, entry: bytes) -> None:
        """Delete a quarantined message that has been stored elsewhere."""
        self._commands.forget_undecodable(entry)

    def text_of(self, tag: str) -> bytes | None:
        """Return the original text of an unacknowledged message; None if it was acknowledged."""
        for unacked in self._commands.read_unacked([tag]):
            entry = unacked.entry.decode("utf-8", "surrogateescape")
            # The entry is kombu's [message, exchange, routing key]; the message must keep its exact text.
            end = decode_json(entry, 1)[1]
            return entry[1:end].encode("utf-8", "surrogateescape")
        return None
