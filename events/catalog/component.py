"""Events about components that agents use: features of the system, and external providers."""

from __future__ import annotations

from typing import ClassVar, Literal

from petiole.events.content import Content, Text
from petiole.events.event import Category, Event
from petiole.events.ids import SYSTEM_STREAM, StreamId


class FeatureStatus(Content):
    """A feature and its current status."""

    feature: Text
    status: Text


class FeatureFailure(Content):
    """A feature and its error."""

    feature: Text
    error: Text


class ProviderContent(Content):
    """A provider."""

    provider: Text


class ProviderStatus(ProviderContent):
    """A provider and its current status."""

    status: Text


class ComponentEvent(Event):
    """Base class of the events about features and providers."""

    category: ClassVar[Category] = Category.COMPONENT
    stream_id: StreamId = SYSTEM_STREAM


class FeatureStatusUpdatedEvent(ComponentEvent):
    """A feature of the system changed its status."""

    event_type: Literal["feature.status.updated"] = "feature.status.updated"
    content: FeatureStatus


class FeatureFailedEvent(ComponentEvent):
    """A feature of the system failed."""

    event_type: Literal["feature.failed"] = "feature.failed"
    content: FeatureFailure


class ProviderRegisteredEvent(ComponentEvent):
    """A provider was registered."""

    event_type: Literal["provider.registered"] = "provider.registered"
    content: ProviderContent


class ProviderStatusUpdatedEvent(ComponentEvent):
    """A provider changed its status."""

    event_type: Literal["provider.status.updated"] = "provider.status.updated"
    content: ProviderStatus


class ProviderStoppedEvent(ComponentEvent):
    """A provider was shut down."""

    event_type: Literal["provider.stopped"] = "provider.stopped"
    content: ProviderContent


class PrimaryProviderSetEvent(ComponentEvent):
    """A provider became the primary one."""

    event_type: Literal["provider.primary.set"] = "provider.primary.set"
    content: ProviderContent
