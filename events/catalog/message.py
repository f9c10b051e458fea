"""The open families of event types for your own use: `message.*` and `custom.*`."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from petiole.events.content import ParametersContent
from petiole.events.event import Category, OpenEvent


class MessageEvent(OpenEvent):
    """A general message. Its topic names the type of its content, such as `message.greeting`."""

    category: ClassVar[Category] = Category.AGENT
    family: ClassVar[str] = "message"
    content: ParametersContent = Field(default_factory=ParametersContent)

    @property
    def content_type(self) -> str:
        """The type of the content: the topic without `message.`."""
        return self.event_type.removeprefix("message.")


class CustomEvent(OpenEvent):
    """An event of a type that was declared at run time, such as `custom.data_updated`."""

    category: ClassVar[Category] = Category.AGENT
    family: ClassVar[str] = "custom"
    content: ParametersContent = Field(default_factory=ParametersContent)

    @property
    def name(self) -> str:
        """The declared name: the topic without `custom.`."""
        return self.event_type.removeprefix("custom.")
