"""Consolidation: beat has the memory cleaned up."""

from __future__ import annotations

from petiole.events.catalog.memory import ConsolidationDue, ConsolidationDueEvent
from petiole.tasks.periodic import Periodic, slot_id
from petiole.tasks.publishing.commit import Publication, dispatch
from petiole.tasks.publishing.validation import checked


class ConsolidationTask(Periodic):
    """Publish that the memory is to be cleaned up."""

    name = "petiole.consolidation"

    def run(self, *, interval_s: float, slot: int) -> Publication:
        """Publish here and now; once for each slot."""
        content = ConsolidationDue(interval_s=interval_s, slot=slot)
        event = ConsolidationDueEvent(event_id=slot_id("consolidation", interval_s, slot), content=content)
        return dispatch(self.bus, [checked(self.bus, event)])[0]
