"""Urgency, requests and gathers over either broker."""

from __future__ import annotations

import kombu.pools

from petiole.events import MessageEvent, ParametersContent
from tests.contracts.brokers.system import an_event, counting

ASKED = """
from petiole.events import Event, MessageEvent, ParametersContent, TextContent, TextMessageEvent
from petiole.tasks import Agent, GatheredEvents

one = Agent("one")

@one.answers("double")
def double(number: int) -> int:
    return 2 * number

@one.answers("fail")
def fail() -> None:
    raise LookupError("nobody of that name")

@one.gather("message.price", "message.stock", timeout=20)
def offer(gathered: GatheredEvents) -> MessageEvent:
    price, stock = (event.content.parameters["value"] for event in gathered.events)
    return MessageEvent(event_type="message.offer", stream_id="s", content={"parameters": {"value": price * stock}})
"""


ASKING = """
from concurrent.futures import ThreadPoolExecutor
from petiole.tasks import request

def double(number):
    return request("double", responder="one", number=number, timeout=20).get().value

with ThreadPoolExecutor(8) as threads:
    print(list(threads.map(double, range(20))))
failed = request("fail", responder="one", timeout=20).get()
print(failed.error_type, failed.error)
print(request("double", responder="nobody", number=1, timeout=20).get().error_type)
"""


def a_part(topic: str, value: int) -> MessageEvent:
    content = ParametersContent(parameters={"value": value})
    return MessageEvent(event_type=topic, stream_id="s", correlation_id="a-flow", content=content)


def test_an_urgent_event_is_among_the_first_two(system, eventually):
    system.subscribe("one.count")
    system.publish(*(an_event(str(number), priority=1) for number in range(20)))
    urgent = an_event("urgent", priority=9)
    system.publish(urgent)
    system.agents(**counting("one"))

    system.worker("slow", "-Q", "one", "--concurrency", "1", "--prefetch-multiplier", "1")

    eventually(lambda: len(system.handled()) == 21, 20, system.node.logs)
    assert ("one", urgent.event_id) in system.handled()[:2]


def test_json_and_nothing_else_is_read(system, eventually):
    system.agents(**counting("one"))
    worker = system.worker()
    event = an_event()

    with kombu.Connection(system.url) as connection:
        connection.Producer(serializer="pickle").publish(
            ((event.model_dump(mode="json"),), {}, {}),
            exchange="",
            routing_key="one",
            headers={"task": "one.count", "id": "an-id", "lang": "py"},
        )
    system.publish(event)

    eventually(lambda: system.handled() == [("one", event.event_id)], 20, system.node.logs)
    assert worker.poll() is None
    assert "Refusing to deserialize" in system.node.logs() or "ContentDisallowed" in system.node.logs()


def test_requests_are_answered_each_with_its_own_answer_or_the_reason_why_not(system):
    system.agents(one=ASKED)
    system.worker()

    answers, failure, nobody = system.node.run(ASKING).splitlines()

    assert answers == str([2 * number for number in range(20)])
    assert failure == "LookupError nobody of that name"
    assert nobody == "responder_not_found"


def test_what_is_gathered_is_called_for_once_with_all_of_it(system, eventually):
    system.agents(one=ASKED)
    system.worker()

    for topic, value in (("message.stock", 3), ("message.price", 7), ("message.stock", 3)):
        system.publish(a_part(topic, value))
    system.publish(an_event("after"))

    eventually(lambda: system.topics()["aggregation.completed"] == 1, 20, system.node.logs)
    eventually(lambda: system.topics()["message.offer"] == 1, 20, system.node.logs)
    (offer,) = [each for each in system.bus.stores.history.read_after() if each.topic == "message.offer"]
    assert offer.document["content"]["parameters"] == {"value": 21}
