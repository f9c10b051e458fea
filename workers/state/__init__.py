"""State of the bundled agents, in the same Redis as the bus: one file for each store, with keys and scripts of its own.

state = team_state(context.bus)
state.memories.keep(...)
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from redis import Redis

from petiole.tasks.runtime import BusRuntime
from petiole.tasks.settings import Duration, Settings
from petiole.workers.state.approvals import Approvals
from petiole.workers.state.event_counts import Occurrences
from petiole.workers.state.facts import Facts
from petiole.workers.state.keys import StateKeys
from petiole.workers.state.memories import Memories
from petiole.workers.state.outbound_messages import Replies
from petiole.workers.state.vectors import Vectors


class StateSettings(BaseSettings):
    """How the agents' state is kept; read from the environment as PETIOLE_…"""

    model_config = SettingsConfigDict(env_prefix="PETIOLE_", env_ignore_empty=True, frozen=True)

    approval_timeout: Duration = Field(
        default=timedelta(hours=1), description="how long somebody may take to grant or deny a tool's call"
    )


@dataclass(frozen=True, slots=True)
class TeamState:
    """The stores of the bundled agents."""

    settings: StateSettings
    memories: Memories
    facts: Facts
    vectors: Vectors
    occurrences: Occurrences
    replies: Replies
    approvals: Approvals


def team_state(bus: BusRuntime) -> TeamState:
    """Return the stores of the bundled agents on a bus. Raises NotConfigured where no Redis is known."""
    return bus.resource(_open)


def _open(bus: BusRuntime) -> TeamState:
    return open_team_state(bus.redis, bus.settings)


def open_team_state(client: Redis, bus_settings: Settings) -> TeamState:
    """Open every store over a client that decodes its responses. Connects to nothing yet."""
    keys, settings = StateKeys(bus_settings.key_prefix), StateSettings()
    return TeamState(
        settings=settings,
        memories=Memories(client, keys),
        facts=Facts(client, keys),
        vectors=Vectors(client, keys),
        occurrences=Occurrences(client, keys),
        replies=Replies(client, keys),
        approvals=Approvals(client, keys, bus_settings.effect_age + settings.approval_timeout),
    )
