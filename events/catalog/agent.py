"""Events about agents: lifecycle, state and failures."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from petiole.events.content import Content, Parameters, Text
from petiole.events.event import Category, Event
from petiole.events.ids import SYSTEM_STREAM, StreamId


class AgentLifecycleContent(Content):
    """The agent, and the worker process if the event concerns one."""

    agent: Text
    worker: str | None = None


class AgentStoppedContent(AgentLifecycleContent):
    """The agent, and why it stopped: it was asked to, or its worker was lost."""

    reason: Literal["stopped", "lost"] = "stopped"


class AgentStateContent(Content):
    """A changed value of an agent's state: `state` is its name, `value` holds the new value."""

    agent: Text
    state: Text
    value: Parameters = Field(default_factory=dict)


class AgentFailure(Content):
    """The error of an agent."""

    agent: Text
    error_type: Text
    error: Text


class AgentEvent(Event):
    """Base class of the events about agents."""

    category: ClassVar[Category] = Category.AGENT
    stream_id: StreamId = SYSTEM_STREAM


class AgentLifecycleEvent(AgentEvent):
    """Base class of an agent's lifecycle events."""

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
    """An agent is about to accept events."""

    event_type: Literal["agent.starting"] = "agent.starting"


class AgentStartedEvent(AgentLifecycleEvent):
    """An agent accepts events."""

    event_type: Literal["agent.started"] = "agent.started"


class AgentStoppingEvent(AgentLifecycleEvent):
    """An agent accepts no more events and finishes its running handlers."""

    event_type: Literal["agent.stopping"] = "agent.stopping"


class AgentStoppedEvent(AgentEvent):
    """An agent stopped."""

    event_type: Literal["agent.stopped"] = "agent.stopped"
    content: AgentStoppedContent


class StateUpdatedEvent(AgentEvent):
    """A value in an agent's state changed."""

    event_type: Literal["agent.state.updated"] = "agent.state.updated"
    content: AgentStateContent


class AgentFailedEvent(AgentEvent):
    """A handler of an agent failed."""

    event_type: Literal["agent.failed"] = "agent.failed"
    content: AgentFailure
