"""The agents, the model and the tool of `petiole demo --console`, which are there to be broken.

PETIOLE_AGENTS=petiole.workers.agents,petiole.workers.console.demo_agents
PETIOLE_EVENT_TYPES=petiole.workers.console.demo_agents
PETIOLE_TOOLS=petiole.workers.console.demo_agents
PETIOLE_LLM=petiole.workers.console.demo_agents:DemoModel
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from petiole.events import Content, Event
from petiole.events.catalog.orchestrator import ModelRequest
from petiole.events.errors import ProviderUnavailable
from petiole.tasks import Agent, RetryPolicy
from petiole.tasks.settings import Settings
from petiole.workers.llm.provider import Finished, ResponsePart, TextDelta, ToolDescription
from petiole.workers.llm.rules import RuleBasedModel
from petiole.workers.tools import tool

WORD_S: Final = 0.1
"""How long the model writes at a word, so that a reader sees the answer grow."""

_STOPPED_FILE = "model.stopped"


class DemoOrder(Content):
    """An order of tea, and how long it is worked on. A poisoned one cannot be handled."""

    article: str = "tea"
    work_s: float = 0.3
    is_poisoned: bool = False


class DemoReceipt(Content):
    article: str


class DemoOrderPlacedEvent(Event):
    """The demo placed an order."""

    event_type: Literal["demo.order.placed"] = "demo.order.placed"
    content: DemoOrder


class DemoOrderServedEvent(Event):
    """An order of the demo was served: what must happen exactly once."""

    event_type: Literal["demo.order.served"] = "demo.order.served"
    content: DemoReceipt


agent = Agent("kitchen")


@agent.on("demo.order.placed", retry=RetryPolicy(max_attempts=3, base=0.5))
def serve(event: DemoOrderPlacedEvent) -> DemoOrderServedEvent:
    """Serve an order."""
    if event.content.is_poisoned:
        raise ValueError("this order is poisoned: set is_poisoned to false and replay it")
    time.sleep(event.content.work_s)
    return event.caused(DemoOrderServedEvent, content=DemoReceipt(article=event.content.article))


@tool(needs_approval=True, on_unfinished="raise")
def order_tea(cups: int) -> str:
    """Order cups of tea from the kitchen."""
    return f"{cups} cups of tea are ordered"


class DemoModel:
    """The rules, written slowly. It is unavailable while its file in the home says so."""

    name = "demo"

    def __init__(self) -> None:
        self._rules = RuleBasedModel()

    async def answer(self, request: ModelRequest, tools: Sequence[ToolDescription] = ()) -> AsyncIterator[ResponsePart]:
        """Answer as the rules do. Raises ProviderUnavailable."""
        if model_switch(Settings().home).exists():
            raise ProviderUnavailable(self.name, "somebody stopped it on the page Break it")
        async for part in self._rules.answer(request, tools):
            if isinstance(part, TextDelta):
                await asyncio.sleep(WORD_S)
            yield replace(part, model=self.name) if isinstance(part, Finished) else part


def model_switch(home: Path) -> Path:
    """Return the file that exists while the model is stopped."""
    return home / _STOPPED_FILE
