from __future__ import annotations

from datetime import timedelta

import pytest

from petiole.events import Event
from petiole.events.errors import UsageError
from petiole.tasks import Agent, Context
from tests.support.errors import has_code


def test_a_subscribed_function_stays_a_plain_function():
    agent = Agent("memory")

    @agent.on("input.*")
    def keep(event: Event) -> str:
        return event.event_type

    assert keep.__name__ == "keep"
    assert [subscription.name for subscription in agent.subscriptions] == ["memory.keep"]


def test_one_subscription_may_have_several_patterns():
    agent = Agent("proactive")

    @agent.on("*", "memory.pattern.detected")
    def watch(event: Event) -> None: ...

    (subscription,) = agent.subscriptions
    assert subscription.patterns == ("*", "memory.pattern.detected")


def test_the_same_function_twice_is_refused():
    agent = Agent("memory")

    def keep(event: Event) -> None: ...

    agent.on("input.*")(keep)
    with pytest.raises(UsageError, check=has_code("duplicate_subscription"), match=r"memory\.keep"):
        agent.on("tools.*")(keep)


def test_an_invalid_pattern_is_refused_by_on():
    with pytest.raises(UsageError, check=has_code("invalid_pattern"), match="MESSAGE"):
        Agent("memory").on("input.MESSAGE")(lambda event: None)


def test_a_handler_without_a_pattern_is_refused():
    with pytest.raises(UsageError, check=has_code("invalid_pattern"), match="empty"):
        Agent("memory").on()


@pytest.mark.parametrize("name", ["", "Memory", "my agent", "a.b", "1st"])
def test_a_name_that_cannot_be_a_queue_is_refused(name):
    with pytest.raises(UsageError, check=has_code("invalid_name"), match="is not a valid name for an agent"):
        Agent(name)


def test_a_handler_without_a_name_is_refused():
    with pytest.raises(UsageError, check=has_code("invalid_name"), match="lambda"):
        Agent("memory").on("input.*")(lambda event: None)


def test_a_handler_with_a_second_parameter_gets_the_context():
    agent = Agent("memory")

    @agent.on("input.*")
    def without(event: Event) -> None: ...

    @agent.on("input.*")
    def with_it(event: Event, context: Context) -> None: ...

    assert not agent.handlers["memory.without"].takes_context
    assert agent.handlers["memory.with_it"].takes_context


def listen(event: Event) -> None: ...


def listen_too(event: Event) -> None: ...


def test_options_are_kept_with_the_subscription():
    agent = Agent("shop")

    agent.on("message.*", where={"context.user_id": "ada"}, priority=9, expires=30, split="offer", weight=100)(listen)

    (subscription,) = agent.subscriptions
    assert subscription.where == {"context.user_id": "ada"}
    assert (subscription.priority, subscription.expires) == (9, timedelta(seconds=30))
    assert (subscription.split, subscription.variant, subscription.weight) == ("offer", "listen", 100)


def test_an_invalid_filter_is_refused_by_on():
    with pytest.raises(UsageError, check=has_code("invalid_filter"), match="did you mean 'ge'"):
        Agent("shop").on("message.*", where={"content.parameters.amount": {"gte": 100}})


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"priority": 10}, "'shop.listen': priority: input should be less than or equal to 9, not 10"),
        ({"priority": True}, "priority: input should be a valid integer"),
        ({"expires": 0}, "expires: input should be greater than"),
        ({"expires": "soon"}, "expires: input should be a valid timedelta"),
        ({"split": "an offer"}, "split: string should match pattern"),
        ({"split": "offer", "weight": 101}, "weight: input should be less than or equal to 100"),
        ({"split": "offer", "weight": float("nan")}, "weight: "),
        ({"weight": 20}, "a weight is a share of a split"),
        ({"split": "offer", "weight": 20, "shadow": True}, "a shadow gets every event"),
        ({"variant": "new"}, "give both"),
        ({"shadow": 1}, "shadow: input should be a valid boolean"),
    ],
)
def test_an_invalid_option_is_refused_by_name(options, reason):
    with pytest.raises(UsageError, check=has_code("invalid_subscription")) as refusal:
        Agent("shop").on("message.*", **options)(listen)

    assert reason in str(refusal.value)


def test_weights_above_100_percent_are_refused():
    agent = Agent("shop")
    agent.on("message.*", split="offer", weight=60)(listen)

    with pytest.raises(
        UsageError, check=has_code("invalid_subscription"), match="the weights of split 'offer' add up to 110"
    ):
        agent.on("message.*", split="offer", weight=50)(listen_too)


def test_a_variant_with_two_weights_is_refused():
    agent = Agent("shop")
    agent.on("message.*", split="offer", variant="new", weight=20)(listen)

    with pytest.raises(
        UsageError, check=has_code("invalid_subscription"), match="variant 'new' has the weights 20 and 30"
    ):
        agent.on("message.*", split="offer", variant="new", weight=30)(listen_too)


def test_a_split_that_leaves_streams_without_a_variant_is_not_registered():
    agent = Agent("shop")
    agent.on("message.*", split="offer", weight=20)(listen)

    with pytest.raises(
        UsageError, check=has_code("invalid_subscription"), match="add up to 20, and no variant gets the rest"
    ):
        agent.subscriptions  # noqa: B018 - reading them is what announces

    agent.on("message.*", split="offer")(listen_too)
    assert len(agent.subscriptions) == 2


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
def test_an_invalid_time_limit_is_refused_by_on(timeout):
    with pytest.raises(UsageError, check=has_code("invalid_option"), match="timeout"):
        Agent("memory").on("input.*", timeout=timeout)
