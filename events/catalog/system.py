"""Events about the system: ticks, metrics, and the ten lifecycle events from created to stopped."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from petiole.events.content import Content, Count, Number, Parameters, Text
from petiole.events.event import MAX_PRIORITY, MIN_PRIORITY, Category, Event, UtcDatetime
from petiole.events.ids import SYSTEM_STREAM, StreamId


class Tick(Content):
    """A tick of a schedule: its name, its interval in seconds, and the number of the slot."""

    schedule: Text = "tick"
    interval_s: Annotated[Number, Field(gt=0)]
    slot: Count


class MetricsReport(Content):
    """Counts since the last report, the mean time to a reply in ms, and requests by type and by agent.

    Where events are counted (PETIOLE_METRICS): the number of events, of handled deliveries and of failed attempts by
    agent, and the mean time from publish to handled in ms. Of each queue at the time of the report: the number of
    waiting messages (`depth`), the age of the oldest one in s (`lag_s`), and how many a worker has (`in_flight`).
    """

    total_requests: Count = 0
    total_responses: Count = 0
    avg_execution_time_ms: Annotated[Number, Field(ge=0)] = 0.0
    request_types: dict[str, Count] = Field(default_factory=dict)
    agent_metrics: Parameters = Field(default_factory=dict)
    retries: Count = 0
    dead_letters: Count = 0
    events: Count = 0
    handled: dict[str, Count] = Field(default_factory=dict)
    failed: dict[str, Count] = Field(default_factory=dict)
    avg_latency_ms: Annotated[Number, Field(ge=0)] = 0.0
    depth: dict[str, Count] = Field(default_factory=dict)
    lag_s: dict[str, Annotated[Number, Field(ge=0)]] = Field(default_factory=dict)
    in_flight: dict[str, Count] = Field(default_factory=dict)


class WorkerStall(Content):
    """A worker, its queues in which deliveries wait, and for how long it has begun none, in seconds."""

    worker: Text
    queues: tuple[Text, ...]
    idle_s: Annotated[Number, Field(ge=0)]


class SystemLifecycleContent(Content):
    """The time of the previous lifecycle event."""

    last_event_time: UtcDatetime | None = None


class SystemEvent(Event):
    """Base class of the events about the system. All are in one stream."""

    category: ClassVar[Category] = Category.SYSTEM
    stream_id: StreamId = SYSTEM_STREAM


class TickEvent(SystemEvent):
    """A schedule's interval passed."""

    event_type: Literal["system.tick"] = "system.tick"
    content: Tick
    priority: Annotated[int, Field(strict=True, ge=0, le=9)] = MIN_PRIORITY


class MetricsSummaryEvent(SystemEvent):
    """Metrics were collected."""

    event_type: Literal["system.metrics.summary"] = "system.metrics.summary"
    content: MetricsReport = MetricsReport()


class WorkerStalledEvent(SystemEvent):
    """A worker is connected and handles nothing, although deliveries wait for it."""

    event_type: Literal["system.worker.stalled"] = "system.worker.stalled"
    content: WorkerStall
    priority: Annotated[int, Field(strict=True, ge=0, le=9)] = MAX_PRIORITY


class SystemLifecycleEvent(SystemEvent):
    """Base class of the system's lifecycle events. They have the highest priority."""

    content: SystemLifecycleContent = SystemLifecycleContent()
    priority: Annotated[int, Field(strict=True, ge=0, le=9)] = MAX_PRIORITY


class SystemCreatedEvent(SystemLifecycleEvent):
    """The system was created, and nothing is registered yet."""

    event_type: Literal["system.created"] = "system.created"


class SystemFeaturesRegisteredEvent(SystemLifecycleEvent):
    """The system's features are registered."""

    event_type: Literal["system.features.registered"] = "system.features.registered"


class SystemProvidersRegisteredEvent(SystemLifecycleEvent):
    """The providers are registered."""

    event_type: Literal["system.providers.registered"] = "system.providers.registered"


class SystemWorldRegisteredEvent(SystemLifecycleEvent):
    """The world's event types and policies are registered."""

    event_type: Literal["system.world.registered"] = "system.world.registered"


class SystemBuiltinAgentsRegisteredEvent(SystemLifecycleEvent):
    """The built-in agents are registered."""

    event_type: Literal["system.builtin_agents.registered"] = "system.builtin_agents.registered"


class SystemUserAgentsRegisteredEvent(SystemLifecycleEvent):
    """The user-defined agents are registered."""

    event_type: Literal["system.user_agents.registered"] = "system.user_agents.registered"


class SystemStartingEvent(SystemLifecycleEvent):
    """The system is starting its agents."""

    event_type: Literal["system.starting"] = "system.starting"


class SystemStartedEvent(SystemLifecycleEvent):
    """The system started."""

    event_type: Literal["system.started"] = "system.started"


class SystemStoppingEvent(SystemLifecycleEvent):
    """The system accepts no more events and finishes running handlers."""

    event_type: Literal["system.stopping"] = "system.stopping"


class SystemStoppedEvent(SystemLifecycleEvent):
    """The system stopped. This is its last lifecycle event."""

    event_type: Literal["system.stopped"] = "system.stopped"
