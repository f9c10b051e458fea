from __future__ import annotations

from datetime import timedelta

import pytest

from events import Event
from events.errors import DuplicateSubscription, InvalidName, InvalidOption, InvalidPattern
from tasks import Agent, Context


def test_a_subscribed_function_stays_a_plain_function():
    agent = Agent("memory")

    @agent.on("input.*")
    def keep(event: Event) -> str:
        return event.event_type

    assert keep.__name__ == "keep"
    assert [subscription.name for subscription in agent.subscriptions] == ["memory.keep"]


def test_one_subscription_hears_several_patterns():
    agent = Agent("proactive")

    @agent.on("*", "memory.pattern.detected")
    def watch(event: Event) -> None: ...

    (subscription,) = agent.subscriptions
    assert subscription.patterns == ("*", "memory.pattern.detected")


def test_the_same_function_twice_is_refused():
    agent = Agent("memory")

    def keep(event: Event) -> None: ...

    agent.on("input.*")(keep)
    with pytest.raises(DuplicateSubscription, match=r"memory\.keep"):
        agent.on("tools.*")(keep)


def test_a_pattern_that_is_none_is_refused_where_it_is_written():
    with pytest.raises(InvalidPattern, match="MESSAGE"):
        Agent("memory").on("input.MESSAGE")(lambda event: None)


def test_a_handler_without_a_pattern_is_refused():
    with pytest.raises(InvalidPattern, match="empty"):
        Agent("memory").on()


@pytest.mark.parametrize("name", ["", "Memory", "my agent", "a.b", "1st"])
def test_a_name_that_cannot_be_a_queue_is_refused(name):
    with pytest.raises(InvalidName, match="cannot name an agent"):
        Agent(name)


def test_a_handler_without_a_name_is_refused():
    with pytest.raises(InvalidName, match="lambda"):
        Agent("memory").on("input.*")(lambda event: None)


def test_a_handler_gets_the_context_if_it_has_a_place_for_it():
    agent = Agent("memory")

    @agent.on("input.*")
    def without(event: Event) -> None: ...

    @agent.on("input.*")
    def with_it(event: Event, context: Context) -> None: ...

    assert not agent.handlers["memory.without"].takes_context
    assert agent.handlers["memory.with_it"].takes_context


@pytest.mark.parametrize(
    ("timeout", "seconds"), [(2, 2.0), (0.5, 0.5), (timedelta(minutes=1), 60.0), (None, None)], ids=repr
)
def test_a_time_limit_is_seconds_or_a_timedelta(timeout, seconds):
    agent = Agent("memory")

    @agent.on("input.*", timeout=timeout)
    def keep(event: Event) -> None: ...

    assert agent.handlers["memory.keep"].timeout_s == seconds


@pytest.mark.parametrize(
    "timeout", [0, -1, float("nan"), float("inf"), True, "5", timedelta(0), timedelta(days=8)], ids=repr
)
def test_a_time_limit_that_is_none_is_refused_where_it_is_written(timeout):
    with pytest.raises(InvalidOption, match="timeout"):
        Agent("memory").on("input.*", timeout=timeout)


@pytest.mark.parametrize("batch", [0, 1, -1, 1001, True, 2.5, "32"])
def test_a_batch_that_is_none_is_refused_where_it_is_written(batch):
    with pytest.raises(InvalidOption, match="batch"):
        Agent("memory").on("input.*", batch=batch)
