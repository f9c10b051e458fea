"""Consolidation: the periodic task that has memories consolidated."""

from __future__ import annotations

from petiole.events.catalog.memory import ConsolidationDue, ConsolidationDueEvent
from petiole.tasks.periodic import PeriodicTask, slot_id
from petiole.tasks.publishing.commit import Publication, commit
from petiole.tasks.publishing.validation import validate


class ConsolidationTask(PeriodicTask):
    """Publish that a consolidation is due."""

    name = "petiole.consolidation"

    def run(self, *, interval_s: float, slot: int) -> Publication:
        """Publish the event, once for each slot."""
        content = ConsolidationDue(interval_s=interval_s, slot=slot)
        event = ConsolidationDueEvent(event_id=slot_id("consolidation", interval_s, slot), content=content)
        return commit(self.bus, [validate(self.bus, event)])[0]
