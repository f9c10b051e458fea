"""Events about the usage of model providers: tokens and cost of each call."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from petiole.events.content import Content, Count, Number, Text
from petiole.events.event import Category, Event


class RecordedUsage(Content):
    """The tokens of one call to a model. `cost` is in `currency`; None if the price is unknown."""

    provider: Text
    model: Text
    account: Text | None = None
    input_tokens: Count = 0
    output_tokens: Count = 0
    cost: Annotated[Number, Field(ge=0)] | None = None
    currency: Text | None = None


class UsageRecordedEvent(Event):
    """A call to a model used tokens."""

    category: ClassVar[Category] = Category.PROCESSING
    event_type: Literal["llm.usage.recorded"] = "llm.usage.recorded"
    content: RecordedUsage
