"""Secrets are in no text that is kept, and handlers and requesters get them all the same."""

from __future__ import annotations

from petiole.tasks import EventBus
from petiole.tasks.settings import Settings
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import memory
from petiole.workers.state import team_state
from tests.support.apps import a_bus
from tests.support.inside import Inside

SAID = "My password is hunter2, and I like tea."
KEPT = "My password is [redacted], and I like tea."

VAULT = """
import os
import redis
from petiole.events import Event
from petiole.tasks import Agent, Context, RetryPolicy

said = redis.Redis.from_url(os.environ["PETIOLE_BROKER_URL"])
agent = Agent("vault")

@agent.on("input.*", retry=RetryPolicy(max_attempts=2, base=0.1))
def hear(event: Event, context: Context) -> None:
    (earlier,) = context.flow()
    said.rpush("said", event.content.text, earlier.content.text)
    if context.attempt == 1:
        raise OSError("again")

@agent.answers("open")
def open_vault() -> dict:
    return {"password": "hunter2"}
"""

ASK = """
from petiole.tasks import request
print(request("open", responder="vault", timeout=30).get().value)
"""


def test_a_worker_gets_the_secret_in_each_attempt_and_the_history_keeps_none(
    node, inside, client, a_message, eventually
):
    node.module("vault", VAULT)
    node.environment["PETIOLE_AGENTS"] = "vault"
    node.worker("w")

    a_bus(node.environment["PETIOLE_BROKER_URL"]).publish(a_message(SAID))
    eventually(lambda: client.llen("said") == 4, 30, node.logs)
    answer = node.run(ASK)

    assert client.lrange("said", 0, -1) == [SAID, KEPT] * 2
    assert answer == "{'password': 'hunter2'}\n"
    assert "hunter2" not in str(inside.history())
    assert [each["content"]["text"] for each in inside.history("input.message.received")] == [KEPT]
    eventually(lambda: inside.references() == 0 and inside.leaks() == [], 10, inside.leaks)


def test_a_large_event_is_kept_without_its_secret_and_handled_with_it(a_message):
    handled, text = [], SAID * 2_000
    with EventBus(settings=Settings(claim_check_threshold_bytes=10_000)) as bus:

        def handle(event):
            handled.append(event.content.text)

        bus.subscribe("input.*", handle)
        bus.publish(a_message(text))
        bus.wait()

        (kept,) = Inside(bus).history()
        assert handled == [text]
        assert kept["content"] == {"text": KEPT * 2_000, "language": None}


def test_memories_and_facts_keep_no_secret(a_message):
    with EventTestHarness([memory.agent]) as harness:
        harness.send_through(a_message(SAID, "s"))

        state = team_state(harness.bus)
        assert [each.text for each in state.memories.read("s")] == [KEPT]
        assert "hunter2" not in str(state.facts.read("s"))


def test_a_hook_of_ones_own_decides_what_is_kept(a_message, tmp_path, monkeypatch):
    (tmp_path / "hooks.py").write_text("def hide(text, name):\n    return f'{name}: {len(text)} characters'\n")
    monkeypatch.syspath_prepend(tmp_path)
    with EventBus(settings=Settings(redact="hooks:hide")) as bus:
        bus.publish(a_message("hello"))

        (kept,) = Inside(bus).history()
        assert kept["content"] == {"text": "text: 5 characters", "language": None}
