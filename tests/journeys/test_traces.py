"""Spans of a real worker with a prefork pool, as a collector gets them."""

from __future__ import annotations

import kombu
import pytest

from tests.support.collector import collecting
from tests.support.inside import delete_queues

AGENT = """
import logging, os, signal
from petiole.events import Event
from petiole.events.catalog.output import MessageSentEvent
from petiole.tasks import Agent, Context, RetryPolicy
from petiole.tasks.instrumentation.tracing import trace_operation

# A worker that logs each task takes Celery's way, without jobs.
for name in ("celery.worker.strategy", "celery.app.trace"):
    logging.getLogger(name).setLevel("WARNING")
agent = Agent("archive")

@agent.on("output.message.sent", retry=RetryPolicy(max_attempts=2, base=0.1))
def store(event: MessageSentEvent, context: Context) -> None:
    if context.attempt == 1:
        raise RuntimeError("the disk is full")

@agent.on("message.crash")
def crash(event: Event) -> None:
    with trace_operation("execute_tool", "last", {}):
        pass
    os.kill(os.getpid(), signal.SIGKILL)
"""

MODEL = """
from petiole.events.catalog.llm import Usage
from petiole.workers.llm.provider import Finished, TextDelta

class Parrot:
    name = "parrot"

    async def answer(self, request, tools=()):
        yield TextDelta("84")
        yield Finished("parrot-1", Usage(input_tokens=11, output_tokens=3))
"""

PUBLISH = """
from petiole.events import MessageEvent, TextContent, TextMessageEvent
from petiole.tasks import publish
from petiole.workers.observability.tracing import install_tracing
install_tracing()
publish({event})
"""

BUNDLED = ("orchestrator", "memory", "tools", "llm", "output")
PRODUCER, CONSUMER = 4, 5
QUESTION = "TextMessageEvent(stream_id='s', content=TextContent(text='What is 12 * 7?'))"


@pytest.fixture
def collector(node):
    with collecting() as collector:
        node.module("agent_archive", AGENT)
        node.module("parrot", MODEL)
        node.environment.update(
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
                "OTEL_BSP_SCHEDULE_DELAY": "200",
                "PETIOLE_AGENTS": ",".join(f"petiole.workers.agents.{name}" for name in BUNDLED) + ",agent_archive",
                "PETIOLE_LLM": "parrot:Parrot",
                "PETIOLE_MAX_DELIVERY_CRASHES": "1",
            }
        )
        yield collector


def test_a_conversation_over_prefork_processes_is_one_trace_without_orphans(node, collector, eventually):
    node.worker("first", "--pool", "prefork", "-c", "3")

    node.run(PUBLISH.format(event=QUESTION))

    def stored():
        return [
            span
            for span in collector.named("event.output.message.sent")
            if span.kind == CONSUMER and "store" in str(span)
        ]

    eventually(lambda: len(stored()) == 2, 40, node.logs)
    eventually(lambda: orphans(collector.spans) == [], 20, lambda: orphans(collector.spans))
    (trace_id,) = {span.trace_id for span in collector.spans if span.attributes.get("stream.id") == "s"}
    conversation = [span for span in collector.spans if span.trace_id == trace_id]
    (root,) = [span for span in conversation if not span.parent_id]
    assert (root.name, root.kind) == ("event.input.message.received", PRODUCER)
    assert all(is_below_its_event(span, conversation) for span in conversation if span.kind == CONSUMER)
    failed, succeeded = sorted(stored(), key=lambda span: span.attributes["petiole.delivery.attempt"])
    assert (failed.is_error, failed.attributes["error.type"]) == (True, "RuntimeError")
    assert failed.events == ("exception", "delivery.retrying")
    assert not succeeded.is_error
    (chat,) = collector.named("chat parrot")
    assert chat.trace_id == trace_id
    assert chat.attributes["gen_ai.request.model"] == "parrot"
    assert chat.attributes["gen_ai.response.model"] == "parrot-1"
    assert chat.attributes["gen_ai.usage.input_tokens"] == 11
    assert chat.attributes["gen_ai.usage.output_tokens"] == 3
    (tool,) = collector.named("execute_tool calculator")
    assert parent_of(tool, collector.spans).name == "invoke_agent tools"


def test_the_spans_that_a_killed_process_had_finished_arrive(node, collector, eventually):
    node.worker("first", "--pool", "prefork", "-c", "1")

    node.run(PUBLISH.format(event="MessageEvent(event_type='message.crash', stream_id='s', content={})"))

    eventually(lambda: collector.named("execute_tool last") != [], 40, node.logs)


HOUSE = """
from petiole.events import Event
from petiole.tasks import Agent

agent = Agent("house")

@agent.on("message.*")
def hear(event: Event) -> None: ...

@agent.answers("add")
def add(one: int, other: int) -> int:
    return one + other
"""

ASKED = "request.made"
HELLO = "MessageEvent(event_type='message.hello', stream_id='s', content={})"

DELAY = """
from petiole.events import MessageEvent
from petiole.tasks import publish, request
from petiole.workers.observability.tracing import install_tracing
install_tracing()
publish.delay({event})
print(request("add", responder="house", one=1, other=2, timeout=30).get().value)
"""


@pytest.fixture
def house(node, collector):
    node.module("house", HOUSE)
    node.environment["PETIOLE_AGENTS"] = "house"
    return node


def of_kind(collector, topic, kind):
    return [span for span in collector.named(f"event.{topic}") if span.kind == kind]


def test_linked_deliveries_begin_traces_of_their_own_and_requests_stay_in_one(house, collector, eventually):
    house.environment["PETIOLE_DELIVERY_SPANS"] = "link"
    house.worker("w")

    assert house.run(DELAY.format(event=HELLO)) == "3\n"

    heard = "message.hello"
    eventually(lambda: of_kind(collector, heard, CONSUMER) != [], 30, house.logs)
    eventually(lambda: of_kind(collector, "response.succeeded", PRODUCER) != [], 30, house.logs)
    eventually(lambda: orphans(collector.spans) == [], 20, lambda: orphans(collector.spans))
    (delivery,), (sender, publisher) = of_kind(collector, heard, CONSUMER), of_kind(collector, heard, PRODUCER)
    if publisher.parent_id != sender.span_id:
        sender, publisher = publisher, sender
    assert (sender.parent_id, publisher.parent_id) == ("", sender.span_id), "publish.delay: sender, then worker"
    assert (delivery.parent_id, delivery.links) == ("", (publisher.span_id,))
    assert delivery.trace_id != publisher.trace_id
    (question,), (answering,) = of_kind(collector, ASKED, PRODUCER), of_kind(collector, ASKED, CONSUMER)
    (reply,) = of_kind(collector, "response.succeeded", PRODUCER)
    assert (answering.parent_id, answering.links) == (question.span_id, ())
    assert reply.trace_id == answering.trace_id == question.trace_id


def test_an_event_that_a_command_publishes_has_a_root_in_its_trace(house, collector, eventually):
    house.worker("w")

    house.command("publish", "message.hello", "--stream", "s")

    eventually(lambda: of_kind(collector, "message.hello", CONSUMER) != [], 30, house.logs)
    (delivery,), (root,) = (of_kind(collector, "message.hello", kind) for kind in (CONSUMER, PRODUCER))
    assert (root.parent_id, delivery.parent_id) == ("", root.span_id)


@pytest.mark.long
def test_a_trace_survives_rabbitmq(house, collector, rabbit_url, clean_broker_url, eventually):
    house.environment.update({"PETIOLE_BROKER_URL": rabbit_url, "PETIOLE_STATE_URL": clean_broker_url})
    with kombu.Connection(rabbit_url) as connection:
        delete_queues(connection, "house", "publish")
    house.worker("w")

    assert house.run(DELAY.format(event=HELLO)) == "3\n"

    eventually(lambda: of_kind(collector, "message.hello", CONSUMER) != [], 30, house.logs)
    eventually(lambda: of_kind(collector, "response.succeeded", PRODUCER) != [], 30, house.logs)
    eventually(lambda: orphans(collector.spans) == [], 20, lambda: orphans(collector.spans))
    for topic in ("message.hello", ASKED):
        assert len({span.trace_id for span in collector.named(f"event.{topic}")}) == 1


def is_below_its_event(span, spans):
    producer = parent_of(span, spans)
    return (producer.kind, producer.attributes["event.id"]) == (PRODUCER, span.attributes["event.id"])


def orphans(spans):
    known = {span.span_id for span in spans}
    return [span for span in spans if span.parent_id and span.parent_id not in known]


def parent_of(span, spans):
    return next(each for each in spans if each.span_id == span.parent_id)
