"""Two apps in one Redis database: a prefix each parts their events."""

from __future__ import annotations

import pytest

AGENT = """
import os
import redis
from petiole.events import Event
from petiole.tasks import Agent
from petiole.tasks.settlement.retry_policy import RetryPolicy

handled = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"])
agent = Agent("teller")
mine = os.environ.get("PETIOLE_KEY_PREFIX", "petiole")

@agent.on("input.*", retry=RetryPolicy(max_attempts=3, base=0.05))
def tell(event: Event) -> None:
    if handled.incr("attempts:" + event.event_id) == 1:
        raise ConnectionError("again, please")
    handled.rpush("handled", f"{event.content.text} {mine}")
"""

PUBLISH = """
import os
from petiole.events import TextContent, TextMessageEvent
from petiole.tasks import publish
mine = os.environ.get("PETIOLE_KEY_PREFIX", "petiole")
def event(): return TextMessageEvent(stream_id="s", content=TextContent(text=mine))
for _ in range(5):
    publish.delay(event())
    publish(event())
    publish(event(), delay=0.2)
    publish.apply_async((event(),), countdown=0.2)
"""


@pytest.mark.parametrize("transport", ["petiole", pytest.param("kombu", marks=pytest.mark.long)])
def test_two_prefixes_in_one_database_handle_their_own_events(node, client, eventually, transport):
    node.module("teller", AGENT)
    node.environment.update({"PETIOLE_AGENTS": "teller", "PETIOLE_TRANSPORT": transport})
    for prefix in ("petiole", "shop"):
        node.environment["PETIOLE_KEY_PREFIX"] = prefix
        node.worker(prefix, "--pool", "threads", "--concurrency", "2")

    for prefix in ("petiole", "shop"):
        node.environment["PETIOLE_KEY_PREFIX"] = prefix
        node.run(PUBLISH)

    eventually(lambda: client.llen("handled") == 40, 60, node.logs)
    assert sorted(set(client.lrange("handled", 0, -1))) == ["petiole petiole", "shop shop"]
