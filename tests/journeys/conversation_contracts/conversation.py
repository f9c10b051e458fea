"""A conversation of twenty turns, in which every row of the agents' contracts (J42 to J77) is seen in the history.

It has tools, memory, a contradiction, a tool that fails, one that does not exist, a slow model and one that is away;
one worker, one store, a webhook's receiver over HTTP. Then the table is walked: each row looks at what was recorded.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from petiole.events import (
    Event,
    ProactiveSuggestionEvent,
)
from petiole.events.catalog.orchestrator import ModelRequest
from petiole.events.errors import ProviderUnavailable
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import input as input_agent
from petiole.workers.llm.rules import RuleBasedModel
from petiole.workers.llm.rules.intent_rules import ToolPlan, plan_tools
from tests.support.inside import Inside, deliver, settle

STREAM = "a-conversation"
TURNS = (
    "Hello, can you help me?",
    "My name is Ada.",
    "What is 12 * 7?",
    "What is 1 / 0?",  # a tool that fails
    "What is the weather in Rome?",  # a tool that there is not
    "How many primes are below 100000?",  # a tool that tells how far it is
    "What is 2 + 2 and what time is it in Tokyo?",  # two tools
    "My name is Bob.",  # a contradiction
    "What is my name?",
    "Please answer slowly: why is the sky blue?",
    "When does the shop open?",  # the same question three times
    "When does the shop open?",
    "When does the shop open?",
    "What did I ask you to calculate?",
    "I like tea.",
    "What is 3 * 3?",
    "Please fail now.",  # a model that is away
    "Thanks",
    "What time is it in Paris?",
    "Bye",
)
SLOW_S = 0.3

FLOW = (
    "input.message.received",
    "orchestrator.intent.classified",
    "orchestrator.context.requested",
    "memory.context.assembled",
    "orchestrator.llm.requested",
    "llm.response.generated",
    "orchestrator.response.ready",
    "output.formatting.completed",
    "output.message.sent",
)

AnEvent = TypeVar("AnEvent", bound=Event)


class Moody(RuleBasedModel):
    """The rules, slow at times, and away at times."""

    name = "moody"

    def answer(self, request: ModelRequest, *rest: Any) -> Any:
        if "slowly" in request.text:
            time.sleep(SLOW_S)
        if "fail now" in request.text:
            raise ProviderUnavailable(self.name, "it is away")
        return super().answer(request, *rest)


@dataclass
class Seen:
    """What became of the conversation: the events of each turn, and where more can be tried."""

    team: EventTestHarness
    posted: list[tuple[str, str]]
    events: list[Event]
    flows: dict[str, list[Event]]
    turns: list[str]

    def of(self, kind: type[AnEvent]) -> list[AnEvent]:
        return [event for event in self.events if isinstance(event, kind)]

    def topics(self, turn: int) -> Counter[str]:
        """Count the events of a turn, from 0."""
        return Counter(event.event_type for event in self.flow(turn))

    def flow(self, turn: int) -> list[Event]:
        """Read all events of a turn's flow, in the order of the history."""
        return self.flows[self.turns[turn]]

    def handled(self, subscription: str, event: Event) -> bool:
        return Inside(self.team).is_handled(subscription, event)

    def heard(self, event: Event) -> tuple[str, ...]:
        return self.team.publish(event).subscriptions

    def delivered_again(self, subscription: str, event: Event, *, as_new: bool = False) -> list[str]:
        """Bring an event to a subscription once more, as the broker would; returns the topics published since."""
        settle(self.team)
        before = len(self.team.published_events())
        deliver(self.team, subscription, event, as_new=as_new)
        return [each.event_type for each in self.team.published_events()[before:]]


def with_weather(intent: Any, text: str) -> tuple[ToolPlan, ...]:
    """Plan as the orchestrator does, and a tool that nobody has where the weather is asked for."""
    return (ToolPlan("weather"),) if "weather" in text else plan_tools(intent, text)


def say(team: EventTestHarness, text: str) -> Event:
    """Say something by the door, and wait until all is over."""
    message = input_agent.receive(text, stream_id=STREAM, user_id="a-user", publish=team.publish)
    settle(team)
    return message


ROWS: dict[str, Callable[[Seen], None]] = {}
ARow = TypeVar("ARow", bound=Callable[[Seen], None])


def row(*names: str) -> Callable[[ARow], ARow]:
    def add(look: ARow) -> ARow:
        ROWS.update(dict.fromkeys(names, look))
        return look

    return add


def suggested(seen: Seen, sent: Event) -> bool:
    causes = {event.event_id: event for event in seen.events}
    return isinstance(causes[str(sent.causation_id)], ProactiveSuggestionEvent)


def only_proactive(seen: Seen) -> str:
    (name,) = [each for each in Inside(seen.team).subscriptions() if each.startswith("proactive.")]
    return name
