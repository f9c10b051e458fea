"""Gathering: one call for several events, in whatever order they come; with the harness, and with real workers."""

from __future__ import annotations

import itertools
import json

import pytest

from petiole.events import Event, MessageEvent, ParametersContent, TextContent, TextMessageEvent
from petiole.events.catalog.orchestrator import ModelRequestedEvent
from petiole.events.errors import UsageError
from petiole.tasks import Agent, Context, GatheredEvents, RetryPolicy
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import llm, memory, orchestrator, output, tools
from tests.support.errors import has_code

# Harness

PARTS = ("message.price", "message.stock", "message.photo")


def a_gatherer(**options: object) -> tuple[Agent, list[GatheredEvents]]:
    """Make an agent that gathers three parts, and the list of its calls."""
    agent, calls = Agent("shop"), []

    @agent.gather(*PARTS, **({"timeout": 5.0} | options))  # type: ignore[arg-type]  # options of many types
    def offer(gathered: GatheredEvents) -> MessageEvent:
        calls.append(gathered)
        return MessageEvent(event_type="message.offer", stream_id="s", content=ParametersContent())

    return agent, calls


def a_part(topic: str, flow: str = "a-flow", **parameters: object) -> MessageEvent:
    content = ParametersContent.model_validate({"parameters": parameters})
    return MessageEvent(event_type=topic, stream_id="s", correlation_id=flow, content=content)


def topics(harness: EventTestHarness) -> list[str]:
    return [event.event_type for event in harness.published_events()]


@pytest.mark.parametrize("missing", [None, *PARTS], ids=str)
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("order", list(itertools.permutations(PARTS)), ids="-".join)
def test_there_is_one_call_whatever_the_order_the_duplicates_and_what_is_missing(harness, order, times, missing):
    agent, calls = a_gatherer()
    harness.add(agent)

    for topic in order:
        for number in range(times):
            if topic != missing:
                harness.publish(a_part(topic, number=number))
    harness.send_through(a_part("message.end", flow="another"))
    for topic in order:
        harness.send_through(a_part(topic, number=99))

    (gathered,) = calls
    assert gathered.is_partial is (missing is not None)
    assert gathered.missing == (() if missing is None else (missing,))
    assert [event.event_type if event else None for event in gathered.events] == [
        topic if topic != missing else None for topic in PARTS
    ]
    assert topics(harness).count("message.offer") == 1
    assert topics(harness).count("aggregation.completed") == 1


def test_what_is_said_for_all_of_them_belongs_to_their_flow(harness):
    agent, _ = a_gatherer()
    harness.add(agent)
    for topic in PARTS:
        harness.send_through(a_part(topic))

    offer = next(event for event in harness.published_events() if event.event_type == "message.offer")

    causes = {event.event_id: event for event in harness.published_events()}
    assert offer.correlation_id == "a-flow"
    assert offer.causation_id is not None
    assert causes[offer.causation_id].event_type == "aggregation.completed"


def test_every_key_has_a_call_of_its_own(harness):
    agent, calls = a_gatherer(by="content.parameters.order")
    harness.add(agent)
    for topic, order in itertools.product(PARTS, ("one", "two")):
        harness.publish(a_part(topic, flow=f"{topic} {order}", order=order))

    harness.send_through(a_part("message.end"))

    assert sorted(gathered.key for gathered in calls) == ["one", "two"]
    assert not any(gathered.is_partial for gathered in calls)


def test_an_event_without_the_field_that_is_gathered_by_is_a_dead_letter(harness):
    agent, calls = a_gatherer(by="content.parameters.order")
    harness.add(agent)

    harness.publish(a_part("message.price"))

    letter = harness.expect_dead_letter()
    assert (letter.error_type, letter.subscription) == ("aggregation_key_missing", "shop.offer_parts")
    assert calls == []


def test_one_of_several_alternatives_is_enough(harness):
    agent, calls = Agent("shop"), []

    @agent.gather("message.price", ("message.photo", "message.no_photo"), timeout=5)
    async def offer(gathered: GatheredEvents, context: Context) -> None:
        calls.append((gathered, context.subscription.name))

    harness.add(agent)
    harness.publish(a_part("message.no_photo"))
    harness.send_through(a_part("message.price"))

    ((gathered, name),) = calls
    assert name == "shop.offer"
    assert [event.event_type for event in gathered.arrived] == ["message.price", "message.no_photo"]
    assert gathered.parts == ("message.price", "message.photo|message.no_photo")
    assert gathered.first(MessageEvent) is gathered.events[0]


def test_a_call_that_fails_is_tried_again_with_the_same_parts_and_kept_as_a_dead_letter(harness):
    agent, calls = Agent("shop"), []

    @agent.gather(*PARTS, timeout=1, retry=RetryPolicy(max_attempts=3))
    def offer(gathered: GatheredEvents) -> None:
        calls.append(gathered.missing)
        raise RuntimeError("the shop is closed")

    harness.add(agent)
    harness.publish(a_part("message.price"))
    letter = harness.expect_dead_letter()
    harness.send_through(a_part("message.stock"))

    assert calls == [("message.stock", "message.photo")] * 3
    assert (letter.subscription, len(letter.attempts)) == ("shop.offer", 3)


def test_a_large_part_is_whole_when_the_function_is_called(harness):
    agent, calls = a_gatherer()
    harness.add(agent)
    for topic in PARTS:
        harness.publish(a_part(topic, text="x" * 100_000))

    harness.send_through(a_part("message.end", flow="another"))

    (gathered,) = calls
    assert {
        len(str(event.content.parameters["text"])) for event in gathered.arrived if isinstance(event, MessageEvent)
    } == {100_000}


def test_what_cannot_be_gathered_is_refused_where_it_is_written():
    agent = Agent("shop")

    def offer(gathered: GatheredEvents) -> None: ...

    with pytest.raises(UsageError, check=has_code("invalid_option"), match="two or more parts"):
        agent.gather("message.price", timeout=1)
    with pytest.raises(UsageError, check=has_code("invalid_option"), match="timeout"):
        agent.gather(*PARTS, timeout=0)
    with pytest.raises(UsageError, check=has_code("invalid_pattern"), match="PRICE"):
        agent.gather("message.PRICE", "message.stock", timeout=1)(offer)
    agent.gather(*PARTS, timeout=1)(offer)
    with pytest.raises(UsageError, check=has_code("duplicate_subscription")):
        agent.gather(*PARTS, timeout=1)(offer)


# The orchestrator's flow


def a_silent(agent: str, topic: str) -> Agent:
    """Make an agent in another's place that says nothing."""
    silent = Agent(agent)

    @silent.on(topic)
    def hear(event: Event) -> None: ...

    return silent


def model_requests(harness: EventTestHarness) -> list[ModelRequestedEvent]:
    return [event for event in harness.published_events() if isinstance(event, ModelRequestedEvent)]


def test_an_answer_goes_on_without_the_context_that_never_comes():
    agents = [module.agent for module in (orchestrator, tools, llm, output)]
    with EventTestHarness([*agents, a_silent("memory", "orchestrator.context.requested")]) as harness:
        harness.send_through(TextMessageEvent(stream_id="s", content=TextContent(text="What is 12 * 7?")))

        (asked,) = model_requests(harness)
        assert asked.content.is_degraded
        assert asked.content.missing == ("memory.context.assembled",)
        assert "84" in asked.content.tools[0].text
        assert "output.message.sent" in topics(harness)


def test_an_answer_goes_on_without_tools_that_do_not_answer():
    agents = [module.agent for module in (orchestrator, memory, llm, output)]
    with EventTestHarness(agents) as harness:
        harness.send_through(TextMessageEvent(stream_id="s", content=TextContent(text="What is 12 * 7?")))

        (asked,) = model_requests(harness)
        assert asked.content.missing == ("orchestrator.tools.prepared",)


# Real workers

GATHERER = """
import os
import time
import redis
from petiole.events import Event, MessageEvent
from petiole.tasks import Agent, GatheredEvents

client = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"], decode_responses=True)
shop = Agent("shop")

@shop.gather("message.price", "message.stock", "message.photo", timeout=float(os.environ.get("GATHER_TIMEOUT", "2")))
def offer(gathered: GatheredEvents) -> MessageEvent:
    client.rpush("calls", f"{time.time()} {gathered.key} {len(gathered.arrived)}")
    if client.incr("tries") <= int(os.environ.get("DIE_TIMES", "0")):
        os.kill(os.getpid(), 9)
    return gathered.arrived[0].caused(MessageEvent, event_type="message.offer")

branch = {name: Agent(f"branch_{name}") for name in ("price", "stock", "photo")}
price, stock, photo = branch.values()

def slow(name):
    def look_up(event: MessageEvent) -> MessageEvent:
        client.rpush("begun", name)
        deadline = time.monotonic() + 20
        while client.llen("begun") < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        client.rpush("ended", client.llen("begun"))
        return event.caused(MessageEvent, event_type=f"message.{name}")
    branch[name].on("message.wanted")(look_up)

for name in branch:
    slow(name)

model = Agent("model")

@model.on("message.offer")
def answer(event: MessageEvent) -> None:
    client.rpush("answers", client.llen("ended"))
"""

PUBLISH = """
import time
from petiole.events import MessageEvent
from petiole.tasks import publish
print(time.time())
for topic in {topics!r}:
    publish(MessageEvent(event_type=topic, stream_id="s", correlation_id={flow!r}))
"""


@pytest.fixture
def shop(node):
    node.environment["PETIOLE_AGENTS"] = "gatherer"
    node.module("gatherer", GATHERER)
    return node


def say(node, topics, flow="a-flow") -> float:
    """Publish events of one flow from a process of its own; returns when it began."""
    return float(node.run(PUBLISH.format(topics=topics, flow=flow)).split()[0])


def calls(client) -> list[tuple[float, str, int]]:
    said = [line.split() for line in client.lrange("calls", 0, -1)]
    return [(float(at), key, int(count)) for at, key, count in said]


@pytest.mark.long
def test_one_call_for_each_of_60_flows_over_two_workers_in_every_order(shop, client, inside, eventually):
    for name in ("one", "two"):
        shop.worker(name, "-Q", "shop,publish")
    flows = {
        f"flow-{number}": [topic for topic in order for _ in range(2)]
        for number, order in enumerate(list(itertools.permutations(PARTS)) * 10)
    }
    shop.run(f"""
import json
from petiole.events import MessageEvent
from petiole.tasks import publish_many
flows = json.loads({json.dumps(json.dumps(flows))})
for place in range(6):
    publish_many(
        MessageEvent(event_type=topics[place], stream_id="s", correlation_id=flow) for flow, topics in flows.items()
    )
""")

    eventually(lambda: client.llen("calls") >= 60, 40, shop.logs)
    eventually(lambda: inside.is_idle("shop", "publish"), 20, shop.logs)
    eventually(lambda: inside.delayed() == 0, 20, shop.logs)
    eventually(lambda: inside.is_idle("shop", "publish"), 20, shop.logs)

    assert sorted((key, count) for _, key, count in calls(client)) == sorted((flow, 3) for flow in flows)


def test_at_the_deadline_there_is_one_call_with_what_came(shop, client, inside, eventually):
    shop.worker("one", "-Q", "shop,publish")
    began = say(shop, ["message.price", "message.photo"])

    eventually(lambda: client.llen("calls") == 1, 15, shop.logs)
    say(shop, ["message.stock"])
    eventually(lambda: inside.is_idle("shop", "publish"), 10, shop.logs)

    ((called, key, count),) = calls(client)
    assert (key, count) == ("a-flow", 2)
    assert 2.0 <= called - began < 12


@pytest.mark.long
def test_workers_that_are_killed_in_the_call_lose_nothing_and_say_nothing_twice(shop, client, inside, eventually):
    shop.environment.update(DIE_TIMES="2", GATHER_TIMEOUT="30")
    workers = [shop.worker(name, "-Q", "shop,publish") for name in ("one", "two", "three")]

    say(shop, PARTS)
    eventually(lambda: client.llen("calls") == 3, 40, shop.logs)
    eventually(lambda: inside.is_idle("shop"), 20, shop.logs)

    assert [count for _, _, count in calls(client)] == [3, 3, 3]
    assert sum(worker.poll() is not None for worker in workers) == 2
    assert inside.topics().count("message.offer") == 1


def test_three_branches_run_at_once_and_the_model_once_after_them(shop, client, inside, eventually):
    shop.environment["GATHER_TIMEOUT"] = "30"
    for name in ("price", "stock", "photo"):
        shop.worker(name, "-Q", f"branch_{name}")
    shop.worker("rest", "-Q", "shop,model,publish")

    say(shop, ["message.wanted"])
    eventually(lambda: client.llen("answers") == 1, 40, shop.logs)
    eventually(lambda: inside.is_idle("shop", "model", "publish"), 20, shop.logs)

    assert client.lrange("ended", 0, -1) == ["3", "3", "3"]
    assert client.lrange("answers", 0, -1) == ["3"]
