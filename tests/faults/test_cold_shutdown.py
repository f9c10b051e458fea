"""A worker that is told to end at once (SIGQUIT), whatever it does at the moment."""

from __future__ import annotations

import signal

import pytest
from celery import Celery

from petiole.events import MessageEvent, ParametersContent
from tests.support.apps import a_bus
from tests.support.polling import PATIENCE, wait_until

# Sends the signal while the worker starts: when it is about to connect, or about to run its event loop.
AGENT = """
import os
import signal
from celery.worker.consumer.connection import Connection
from petiole.events import Event
from petiole.tasks import Agent
from petiole.tasks.consuming.heartbeat import Heartbeat

agent = Agent("clerk")

@agent.on("message.note")
def note(event: Event) -> None: ...

step = {{"connecting": Connection, "registered": Heartbeat}}.get("{moment}", Heartbeat)
start = step.start

def quit(self, consumer):
    if "{moment}" != "running":
        os.kill(os.getpid(), signal.SIGQUIT)
    start(self, consumer)

step.start = quit
"""


@pytest.mark.parametrize(
    "moment",
    ["running", pytest.param("registered", marks=pytest.mark.long), pytest.param("connecting", marks=pytest.mark.long)],
)
def test_a_prefork_worker_that_is_told_to_end_at_once_says_so_and_reports_no_error(node, inside, moment):
    node.module("agent_clerk", AGENT.format(moment=moment))
    node.environment["PETIOLE_AGENTS"] = "agent_clerk"
    if moment == "running":
        worker = node.worker("w", "--pool", "prefork", "-c", "2")
        worker.send_signal(signal.SIGQUIT)
    else:
        worker = node.start("celery", "-A", "workers", "worker", "-c", "2", "--without-mingle")

    worker.wait(timeout=20 * PATIENCE)

    assert "Cold shutdown" in node.logs()
    assert "Traceback" not in node.logs()
    told = [topic for topic in inside.topics() if topic.startswith("agent.")]
    assert moment == "connecting" or told[-2:] == ["agent.stopping", "agent.stopped"]


WRITING = """
import os
import signal
from billiard.connection import Connection
from petiole.events import MessageEvent
from petiole.tasks import Agent

agent = Agent("clerk")
worker, send_offset = os.getpid(), Connection.send_offset

@agent.on("message.note")
def note(event: MessageEvent) -> None: ...

def quit_and_send(self, buffer, offset):
    if os.getpid() == worker and len(buffer) > 4 and not offset:  # not the length, which comes before
        os.kill(worker, signal.SIGQUIT)
    return send_offset(self, buffer, offset)

Connection.send_offset = quit_and_send
"""


def test_a_prefork_worker_ends_at_once_also_if_the_signal_comes_while_it_writes_a_job(node, inside) -> None:
    node.module("agent_clerk", WRITING)
    node.environment["PETIOLE_AGENTS"] = "agent_clerk"
    worker = node.worker("w", "--pool", "prefork", "-c", "2", "-Q", "clerk")

    node.command("publish", "message.note", "--stream", "s")
    worker.wait(timeout=20 * PATIENCE)

    assert "Cold shutdown" in node.logs()
    assert inside.queue_depth("clerk") == 1, "its delivery returned"


QUITTING = """
import os
import signal
import time
from petiole.events import MessageEvent
from petiole.tasks import Agent

agent = Agent("clerk")

@agent.on("message.note")
def note(event: MessageEvent) -> None:
    for number in {signals}:
        os.kill(os.getpid(), number)
        time.sleep(1)
"""


@pytest.mark.parametrize(
    "signals",
    [
        pytest.param("[signal.SIGQUIT]", id="SIGQUIT"),
        pytest.param("[signal.SIGINT] * 2", id="twice Ctrl-C", marks=pytest.mark.long),
    ],
)
def test_a_gevent_worker_ends_at_once_also_if_the_signal_comes_while_a_handler_runs(node, signals) -> None:
    pytest.importorskip("gevent", reason="gevent is not installed: make dev")
    node.module("agent_clerk", QUITTING.format(signals=signals))
    node.environment["PETIOLE_AGENTS"] = "agent_clerk"
    options = ("-P", "gevent", "-c", "4", "-l", "INFO", "--without-mingle")
    worker = node.start("celery", "-A", "workers", "worker", *options)
    wait_until(lambda: "ready." in node.logs(), 30, node.logs)

    node.command("publish", "message.note", "--stream", "s")
    worker.wait(timeout=20 * PATIENCE)

    assert "terminate all running tasks" in node.logs()
    assert "Traceback" not in node.logs()


QUITTING_TASK = """
import os
import signal
import time

import redis
from celery import shared_task
from petiole.events import MessageEvent
from petiole.tasks import Agent

agent = Agent("clerk")

@agent.on("message.note")
def note(event: MessageEvent) -> None: ...

@shared_task(name="quitting")
def quitting():
    os.kill(os.getpid(), signal.SIGQUIT)
    time.sleep(1)
    redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"]).rpush("notes", "went on")
"""


@pytest.mark.parametrize("pool", ["solo", pytest.param("threads", marks=pytest.mark.long)])
def test_what_runs_in_a_pool_that_cannot_end_it_is_not_disturbed_by_the_signal(node, clean_broker_url, client, pool):
    node.module("agent_clerk", QUITTING_TASK)
    node.environment["PETIOLE_AGENTS"] = "agent_clerk"
    worker = node.worker("w", "--pool", pool)

    with Celery("client", broker=clean_broker_url, set_as_current=False) as app:
        app.send_task("quitting", queue="clerk", ignore_result=True)
    worker.wait(timeout=20 * PATIENCE)

    assert "Cold shutdown" in node.logs()
    assert "NotImplementedError" not in node.logs()
    assert client.lrange("notes", 0, -1) == ["went on"]


SLOW = """
import os
import time
from petiole.events import Event
from petiole.tasks import Agent
from petiole.tasks.publication import PublishTask

agent = Agent("clerk")

@agent.on("message.note")
def note(event: Event) -> None: ...

if "SLOW" in os.environ:
    run = PublishTask.run

    def publish_slowly(self, *arguments, **options):
        print("publishing", flush=True)
        time.sleep(60)
        return run(self, *arguments, **options)

    PublishTask.run = publish_slowly
"""


def test_what_a_gevent_worker_publishes_when_it_is_told_to_end_at_once_is_published_by_another(
    node, inside, eventually, clean_broker_url
):
    pytest.importorskip("gevent", reason="gevent is not installed: make dev")
    node.module("agent_clerk", SLOW)
    node.environment.update(PETIOLE_AGENTS="agent_clerk", SLOW="1")
    options = ("-P", "gevent", "-c", "4", "-l", "INFO", "--without-mingle")
    worker = node.start("celery", "-A", "workers", "worker", *options)
    wait_until(lambda: "ready." in node.logs(), 30, node.logs)
    with a_bus(clean_broker_url) as bus:
        bus.publish.delay(MessageEvent(event_type="message.note", stream_id="s", content=ParametersContent()))
    wait_until(lambda: "publishing" in node.logs(), 20, node.logs)

    worker.send_signal(signal.SIGQUIT)
    worker.wait(timeout=20 * PATIENCE)
    del node.environment["SLOW"]
    node.worker("another")

    eventually(lambda: inside.topics().count("message.note") == 1, 20, node.logs)
    eventually(lambda: inside.is_idle("clerk", "publish"), 20, node.logs)
