"""What the system says of itself: ticks, metrics, and the ten steps from created to stopped."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from petiole.events.content import Content, Count, Number, Parameters, Text
from petiole.events.event import MAX_PRIORITY, MIN_PRIORITY, Category, Event, UtcDatetime
from petiole.events.ids import SYSTEM_STREAM, StreamId


class Tick(Content):
    """One beat of the clock: which schedule, its interval in seconds, and the slot it stands for."""

    schedule: Text = "tick"
    interval_s: Annotated[Number, Field(gt=0)]
    slot: Count


class MetricsReport(Content):
    """Figures since the last report: counts, the mean time to an answer in ms, and requests per type and per agent.

    Of the queues, as of now: how much waits in each (`depth`), and the age in s of what waits longest (`lag_s`).
    """

    total_requests: Count = 0
    total_responses: Count = 0
    avg_execution_time_ms: Annotated[Number, Field(ge=0)] = 0.0
    request_types: dict[str, Count] = Field(default_factory=dict)
    agent_metrics: Parameters = Field(default_factory=dict)
    retries: Count = 0
    dead_letters: Count = 0
    depth: dict[str, Count] = Field(default_factory=dict)
    lag_s: dict[str, Annotated[Number, Field(ge=0)]] = Field(default_factory=dict)


class SystemLifecycleContent(Content):
    """A step of the system's life, with the time of the step before."""

    last_event_time: UtcDatetime | None = None


class SystemEvent(Event):
    """Base of what the system says; one stream holds it all."""

    category: ClassVar[Category] = Category.SYSTEM
    stream_id: StreamId = SYSTEM_STREAM


class TickEvent(SystemEvent):
    """A regular signal for whatever goes by time."""

    event_type: Literal["system.tick"] = "system.tick"
    content: Tick
    priority: Annotated[int, Field(strict=True, ge=0, le=9)] = MIN_PRIORITY


class MetricsSummaryEvent(SystemEvent):
    """Metrics were collected."""

    event_type: Literal["system.metrics.summary"] = "system.metrics.summary"
    content: MetricsReport = MetricsReport()


class SystemLifecycleEvent(SystemEvent):
    """Base of the steps of the system's life; they go before all other work."""

    content: SystemLifecycleContent = SystemLifecycleContent()
    priority: Annotated[int, Field(strict=True, ge=0, le=9)] = MAX_PRIORITY


class SystemCreatedEvent(SystemLifecycleEvent):
    """The system exists, and nothing is registered yet."""

    event_type: Literal["system.created"] = "system.created"


class SystemFeaturesRegisteredEvent(SystemLifecycleEvent):
    """The system's own features are registered."""

    event_type: Literal["system.features.registered"] = "system.features.registered"


class SystemProvidersRegisteredEvent(SystemLifecycleEvent):
    """The providers are registered."""

    event_type: Literal["system.providers.registered"] = "system.providers.registered"


class SystemWorldRegisteredEvent(SystemLifecycleEvent):
    """The world's event types and policies are registered."""

    event_type: Literal["system.world.registered"] = "system.world.registered"


class SystemBuiltinAgentsRegisteredEvent(SystemLifecycleEvent):
    """The agents that come with the system are registered."""

    event_type: Literal["system.builtin_agents.registered"] = "system.builtin_agents.registered"


class SystemUserAgentsRegisteredEvent(SystemLifecycleEvent):
    """The agents of the system's users are registered."""

    event_type: Literal["system.user_agents.registered"] = "system.user_agents.registered"


class SystemStartingEvent(SystemLifecycleEvent):
    """The system begins to start its agents."""

    event_type: Literal["system.starting"] = "system.starting"


class SystemStartedEvent(SystemLifecycleEvent):
    """The system is at work."""

    event_type: Literal["system.started"] = "system.started"


class SystemStoppingEvent(SystemLifecycleEvent):
    """The system takes no more events and lets running work finish."""

    event_type: Literal["system.stopping"] = "system.stopping"


class SystemStoppedEvent(SystemLifecycleEvent):
    """The system is at rest; the last event of its life."""

    event_type: Literal["system.stopped"] = "system.stopped"
