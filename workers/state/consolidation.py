"""Consolidation: beat has the memory cleaned up."""

from __future__ import annotations

from pydantic_settings import BaseSettings, SettingsConfigDict

from petiole.events.catalog.memory import ConsolidationDue, ConsolidationDueEvent
from petiole.tasks.periodic import Periodic, slot_id
from petiole.tasks.publishing.commit import Publication, dispatch
from petiole.tasks.publishing.validation import checked
from petiole.tasks.settings import Interval


class ConsolidationSettings(BaseSettings):
    """Read from the environment as PETIOLE_…"""

    model_config = SettingsConfigDict(env_prefix="PETIOLE_", env_ignore_empty=True, frozen=True)

    consolidation_interval_s: Interval = 3600.0


class ConsolidationTask(Periodic):
    """Publish that the memory is to be cleaned up."""

    name = "petiole.consolidation"

    def run(self, *, interval_s: float, slot: int) -> Publication:
        """Publish here and now; once for each slot."""
        content = ConsolidationDue(interval_s=interval_s, slot=slot)
        event = ConsolidationDueEvent(event_id=slot_id("consolidation", interval_s, slot), content=content)
        return dispatch(self.bus, [checked(self.bus, event)])[0]
