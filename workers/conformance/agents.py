"""The agents of a conformance run: they record what they handle in a list of the state store."""

from __future__ import annotations

import os
import time

from petiole.events.catalog.message import MessageEvent
from petiole.events.content import ParametersContent
from petiole.tasks import Agent, Context, RetryPolicy

RUN_VARIABLE = "CONFORMANCE_RUN"
ORDER_VARIABLE = "CONFORMANCE_KEEPS_ORDER"

SLOW_S = 60.0
"""How long the handler takes whose worker is killed."""

_QUICK = RetryPolicy(max_attempts=2, base=0.1)


def records_key(prefix: str) -> str:
    """Return the key of the list of records."""
    return f"{prefix}:conformance:records"


def agent_names(run: str) -> tuple[str, str]:
    """Return the names of the two agents, which are the names of their queues, too."""
    return f"{run}-one", f"{run}-two"


def topic(name: str) -> str:
    """Return the topic of a promise's events."""
    return f"message.conformance-{name}"


def build_agents(run: str, *, keeps_order: bool) -> list[Agent]:
    """Build the agents of a run; `keeps_order` adds the ordered handler, which not every broker allows."""
    one, two = (Agent(name) for name in agent_names(run))
    _add_receivers(one, two)
    if keeps_order:
        _add_ordered_receiver(one)
    _add_failing_handlers(one)
    _add_slow_handler(two)

    @two.answers("conformance_double")
    def double(number: int) -> int:
        return 2 * number

    return [one, two]


def _add_receivers(one: Agent, two: Agent) -> None:
    @one.on(topic("fan-out"), topic("twice"), topic("waiting"), topic("late"), topic("expired"), topic("large"))
    def receive(event: MessageEvent, context: Context) -> None:
        record(event, context, "one")

    @two.on(topic("fan-out"))
    def receive_too(event: MessageEvent, context: Context) -> None:
        record(event, context, "two")

    @one.on(topic("urgent"))
    def receive_by_priority(event: MessageEvent, context: Context) -> None:
        record(event, context, str(event.priority))

    @one.on(topic("filtered"), where={"content.parameters.vip": True})
    def receive_some(event: MessageEvent, context: Context) -> None:
        record(event, context, "one")

    @one.on(topic("chain"))
    def answer(event: MessageEvent) -> MessageEvent:
        return event.caused(MessageEvent, event_type=topic("chained"), content=ParametersContent())

    @two.on(topic("chained"))
    def receive_answer(event: MessageEvent, context: Context) -> None:
        record(event, context, "two")


def _add_ordered_receiver(one: Agent) -> None:
    @one.on(topic("ordered"), ordered=True)
    def receive_in_order(event: MessageEvent, context: Context) -> None:
        record(event, context, str(event.content.parameters["number"]))


def _add_failing_handlers(one: Agent) -> None:
    @one.on(topic("flaky"), retry=_QUICK)
    def fail_once(event: MessageEvent, context: Context) -> None:
        if context.attempt == 1:
            raise ConnectionError(f"{event.event_type} fails once")
        record(event, context, str(context.attempt))

    @one.on(topic("broken"), retry=_QUICK)
    def fail_until_fixed(event: MessageEvent, context: Context) -> None:
        if not context.bus.redis.exists(f"{records_key(context.bus.settings.key_prefix)}:fixed"):
            raise ValueError(f"{event.event_type} is broken")
        record(event, context, "fixed")


def _add_slow_handler(two: Agent) -> None:
    @two.on(topic("killed"))
    def take_long(event: MessageEvent, context: Context) -> None:
        is_first = not context.bus.redis.lrange(records_key(context.bus.settings.key_prefix), 0, -1).count(
            f"{event.event_type} begun"
        )
        record(event, context, "begun" if is_first else "handled")
        if is_first:
            time.sleep(SLOW_S)


def record(event: MessageEvent, context: Context, text: str) -> None:
    """Record that a handler ran."""
    context.bus.redis.rpush(records_key(context.bus.settings.key_prefix), f"{event.event_type} {text}")


def agents_of_environment() -> list[Agent]:
    """Build the agents of the run that this process belongs to."""
    return build_agents(os.environ[RUN_VARIABLE], keeps_order=ORDER_VARIABLE in os.environ)
