"""What users of the system say in types of their own: messages by content type, and custom events."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from petiole.events.content import ParametersContent
from petiole.events.event import Category, OpenEvent


class MessageEvent(OpenEvent):
    """A general message; its topic names what kind of content it has: `message.greeting`."""

    category: ClassVar[Category] = Category.AGENT
    family: ClassVar[str] = "message"
    content: ParametersContent = Field(default_factory=ParametersContent)

    @property
    def content_type(self) -> str:
        """The kind of content: what follows `message.` in the topic."""
        return self.event_type.removeprefix("message.")


class CustomEvent(OpenEvent):
    """An event of a type that was declared at run time: `custom.data_updated`."""

    category: ClassVar[Category] = Category.AGENT
    family: ClassVar[str] = "custom"
    content: ParametersContent = Field(default_factory=ParametersContent)

    @property
    def name(self) -> str:
        """The declared name: what follows `custom.` in the topic."""
        return self.event_type.removeprefix("custom.")
