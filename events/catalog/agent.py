"""What is said of agents: their lives, their state, and their failures."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from petiole.events.content import Content, Parameters, Text
from petiole.events.event import Category, Event
from petiole.events.ids import SYSTEM_STREAM, StreamId


class AgentLifecycleContent(Content):
    """Whose life took a step; `worker` names the process where that matters."""

    agent: Text
    worker: str | None = None


class AgentStoppedContent(AgentLifecycleContent):
    """Whose life ended, and how: asked to, or its worker was lost."""

    reason: Literal["stopped", "lost"] = "stopped"


class AgentStateContent(Content):
    """A value in an agent's state, as it is now; `value` of `state` holds it."""

    agent: Text
    state: Text
    value: Parameters = Field(default_factory=dict)


class AgentFailure(Content):
    """What went wrong inside an agent."""

    agent: Text
    error_type: Text
    error: Text


class AgentEvent(Event):
    """Base of what is said of agents."""

    category: ClassVar[Category] = Category.AGENT
    stream_id: StreamId = SYSTEM_STREAM


class AgentLifecycleEvent(AgentEvent):
    """Base of the steps of an agent's life."""

    content: AgentLifecycleContent


class AgentCreatedEvent(AgentLifecycleEvent):
    """An agent was created."""

    event_type: Literal["agent.created"] = "agent.created"


class AgentAddedEvent(AgentLifecycleEvent):
    """An agent was added to the system."""

    event_type: Literal["agent.added"] = "agent.added"


class AgentRemovedEvent(AgentLifecycleEvent):
    """An agent was removed from the system."""

    event_type: Literal["agent.removed"] = "agent.removed"


class AgentStartingEvent(AgentLifecycleEvent):
    """An agent is about to take events."""

    event_type: Literal["agent.starting"] = "agent.starting"


class AgentStartedEvent(AgentLifecycleEvent):
    """An agent takes events."""

    event_type: Literal["agent.started"] = "agent.started"


class AgentStoppingEvent(AgentLifecycleEvent):
    """An agent takes no more events and finishes what it has."""

    event_type: Literal["agent.stopping"] = "agent.stopping"


class AgentStoppedEvent(AgentEvent):
    """An agent is at rest."""

    event_type: Literal["agent.stopped"] = "agent.stopped"
    content: AgentStoppedContent


class StateUpdatedEvent(AgentEvent):
    """A value in an agent's state changed."""

    event_type: Literal["agent.state.updated"] = "agent.state.updated"
    content: AgentStateContent


class AgentFailedEvent(AgentEvent):
    """An agent failed at something."""

    event_type: Literal["agent.failed"] = "agent.failed"
    content: AgentFailure
