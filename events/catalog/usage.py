"""What was used of a provider, call by call: tokens, and what they cost."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from petiole.events.content import Content, Count, Number, Text
from petiole.events.event import Category, Event


class RecordedUsage(Content):
    """What one call used, of which account and model; `cost` in `currency` where the price is known."""

    provider: Text
    model: Text
    account: Text | None = None
    input_tokens: Count = 0
    output_tokens: Count = 0
    cost: Annotated[Number, Field(ge=0)] | None = None
    currency: Text | None = None


class UsageRecordedEvent(Event):
    """A call to a model was made in this conversation, and cost something."""

    category: ClassVar[Category] = Category.PROCESSING
    event_type: Literal["llm.usage.recorded"] = "llm.usage.recorded"
    content: RecordedUsage
