"""The outbox of a delivery: what its handler published, kept until the handler has succeeded."""

from __future__ import annotations

from dataclasses import dataclass, field

from petiole.tasks.publishing.document import Admitted
from petiole.tasks.stores.delayed_messages import Waiting


@dataclass(slots=True)
class Outbox:
    """What a handler said while it ran, held back until it has succeeded."""

    held: list[Admitted] = field(default_factory=list)
    later: list[Waiting] = field(default_factory=list)
    state: dict[str, str] = field(default_factory=dict)
    muted: int = 0
    count: int = 0

    def mute(self) -> None:
        """Drop all of it, and keep how much that was."""
        self.muted = len(self.held) + len(self.later)
        self.held.clear()
        self.later.clear()
        self.state.clear()
