"""Quarantine: invalid messages that were taken out of queues; and the original text of a leased delivery."""

from __future__ import annotations

from petiole.tasks.stores.deliveries import QueueEntry
from petiole.tasks.transport.client import ClientChannel


class Quarantine(ClientChannel):
    """A channel that reads the quarantined messages, oldest first."""

    def first_undecodable(self) -> tuple[str, bytes, bytes] | None:
        """Return the queue and the bytes of the oldest quarantined message, and its entry for `delete_undecodable`."""
        entry = self._commands.first_undecodable()
        if entry is None:
            return None
        queue, _, text = entry.partition(b"\n")
        return queue.decode(errors="replace"), text, entry

    def delete_undecodable(self, entry: bytes) -> None:
        """Delete a quarantined message that has been stored elsewhere."""
        self._commands.forget_undecodable(entry)

    def text_of(self, tag: str) -> bytes | None:
        """Return the original text of a leased message; None if it is not leased, or an event's delivery."""
        leased = self._commands.read_leased(tag)
        entry = QueueEntry.parse(leased.partition(b"\n")[2]) if leased is not None else None
        return entry.body if entry is not None and not entry.subscription else None
