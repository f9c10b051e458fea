"""Dead letters and real workers: what replays, operators and workers that die leave."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import redis

from petiole.events import TextMessageEvent
from tests.journeys.dead_letters.shop import a_letter
from tests.support.inside import a_raw_message

SIZE = 5_000 if os.environ.get("PETIOLE_FAULTS") == "full" else 300

AGENT = """
import os
import redis
from petiole.events import TextMessageEvent
from petiole.events.errors import ToolFailed
from petiole.tasks import Agent

state_url = os.environ.get("PETIOLE_STATE_URL", os.environ["PETIOLE_BROKER_URL"])
seen = redis.Redis.from_url(state_url, decode_responses=True)
shop = Agent("shop")

@shop.on("input.message.received")
def sell(event: TextMessageEvent) -> None:
    seen.hincrby("runs", event.content.text, 1)
    if seen.get("mended") != "all" and int(event.content.text) % 2:
        raise ToolFailed("till", "it is broken")

@shop.on("input.message.received", ordered=True)
def count(event: TextMessageEvent) -> None:
    if not seen.set("busy:" + event.stream_id, "1", nx=True):
        seen.rpush("overlaps", event.stream_id)
    seen.rpush("counted", event.content.text)
    seen.delete("busy:" + event.stream_id)
    if seen.get("mended") != "all" and event.content.text == "7":
        raise ToolFailed("till", "it is broken")
"""


def lines_of(size: int, subscription: str = "shop.sell") -> str:
    """Write as many letters as if their handler had failed, as an export has them."""
    lines = []
    for number in range(size):
        event = TextMessageEvent.model_validate({"stream_id": f"s{number % 7}", "content": {"text": str(number)}})
        at = datetime.now(UTC) + timedelta(milliseconds=number)
        letter = a_letter(
            str(uuid4()), subscription=subscription, document=json.loads(event.model_dump_json()), at=at,
            fingerprint=f"f{number % 10}", traceback="line\n" * 30,
        )  # fmt: skip
        lines.append(json.dumps({"letter": json.loads(letter.model_dump_json()), "state": "pending"}))
    return "\n".join(lines) + "\n"


def a_raw_line(agent: str) -> str:
    """Write a letter of bytes that are a message, as an export has it."""
    event = TextMessageEvent.model_validate({"stream_id": "s", "content": {"text": "raw"}})
    raw = a_raw_message(event, f"{agent}.sell")
    letter = a_letter(str(uuid4()), queue=agent, cause="unknown_task", raw=base64.b64encode(raw), document=None)
    return json.dumps({"letter": json.loads(letter.model_dump_json()), "state": "pending"}) + "\n"


def command(node, *arguments: str) -> subprocess.Popen[str]:
    """Type a command that prints JSON, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "petiole.workers.cli", "dead-letters", *arguments, "--json"],
        env=node.environment,
        cwd=node.home,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result_of(process: subprocess.Popen[str], *, keys: str = "", code: int = 0) -> Any:
    out, errors = process.communicate(keys, timeout=100)
    assert process.returncode == code, out + errors
    return json.loads(out)


def runs_of(client: redis.Redis) -> list[int]:
    return [int(runs) for runs in client.hvals("runs")]


@pytest.fixture
def till(node):
    """Give a system of two workers, whose handler fails for every other message."""
    node.module("agents_of_ours", AGENT)
    node.environment["PETIOLE_AGENTS"] = "agents_of_ours"
    for name in ("one", "two"):
        node.worker(name)
    return node


def test_a_canary_stops_a_batch_and_a_replay_at_a_rate_accounts_for_every_letter(till, client, inside):
    assert result_of(command(till, "import", "-"), keys=lines_of(SIZE)) == {"imported": SIZE, "known": 0}

    stopped = result_of(command(till, "replay", "--all", "--canary", "10"), code=1)

    assert (len(stopped["sent"]), stopped["untouched"]) == (10, SIZE - 10)
    assert stopped["tally"] == {"resolved": 5, "failed_again": 5, "replaying": 0}
    assert inside.dead_letter_states() == {"resolved": 5, "failed_again": 5, "pending": SIZE - 10}
    assert sum(runs_of(client)) == 10

    went = result_of(command(till, "replay", "--all", "--rate", "200", "--wait", "--timeout", "90"))

    assert len(went["sent"]) == SIZE - 5
    assert went["tally"] == {"resolved": SIZE // 2 - 5, "failed_again": SIZE // 2, "replaying": 0}
    assert inside.dead_letter_states() == {"resolved": SIZE // 2, "failed_again": SIZE // 2}
    assert inside.topics().count("dead_letters.letter.replayed") == SIZE + 5, "one row of the audit for each replay"


def test_two_operators_who_replay_at_once_replay_each_letter_once(till, client, inside):
    client.set("mended", "all")
    result_of(command(till, "import", "-"), keys=lines_of(SIZE - 1) + a_raw_line("shop"))

    operators = [command(till, "replay", "--all", "--wait", "--operator", name) for name in ("ada", "bob")]
    ada, bob = (result_of(operator)["sent"] for operator in operators)

    assert not set(ada) & set(bob)
    assert len(ada) + len(bob) == SIZE
    assert inside.dead_letter_states() == {"resolved": SIZE}
    assert runs_of(client) == [1] * SIZE


@pytest.mark.long
def test_an_operator_killed_at_any_moment_leaves_no_letter_half_replayed(till, client, inside, eventually):
    client.set("mended", "all")
    result_of(command(till, "import", "-"), keys=lines_of(300))
    for _ in range(3):
        sent = inside.replays()
        killed = command(till, "replay", "--all", "--rate", "400")
        eventually(lambda sent=sent: inside.replays() > sent, 30)
        killed.send_signal(signal.SIGKILL)
        killed.communicate(timeout=10)

    result_of(command(till, "replay", "--all", "--wait"))

    eventually(lambda: inside.dead_letter_states() == {"resolved": 300}, 30, inside.dead_letter_states)
    assert runs_of(client) == [1] * 300


def test_an_ordered_delivery_is_replayed_in_its_turn(till, client, inside, eventually):
    till.run(
        "from events import TextContent, TextMessageEvent\nfrom tasks import publish_many\n"
        "publish_many([TextMessageEvent(stream_id='s', content=TextContent(text=str(n))) for n in range(20)])"
    )
    eventually(lambda: client.llen("counted") == 20, 30, till.logs)
    (letter_id,) = (each.id for each in inside.dead_letters() if each.subscription == "shop.count")
    client.set("mended", "all")

    done = result_of(command(till, "replay", letter_id, "--wait"))

    assert done["tally"] == {"resolved": 1, "failed_again": 0, "replaying": 0}
    assert client.lrange("counted", -1, -1) == ["7"]
    assert client.lrange("overlaps", 0, -1) == []
    eventually(lambda: inside.ordered() == [], 10, inside.ordered)


@pytest.mark.long
def test_letters_are_replayed_on_rabbitmq_too(node, client, clean_broker_url, rabbit_url):
    client.set("mended", "all")
    node.module(
        "agents_of_ours", AGENT.replace(", ordered=True", "").replace('Agent("shop")', 'Agent("shop-of-letters")')
    )
    node.environment["PETIOLE_AGENTS"] = "agents_of_ours"
    node.environment.update({"PETIOLE_BROKER_URL": rabbit_url, "PETIOLE_STATE_URL": clean_broker_url})
    node.worker("one", "-Q", "shop-of-letters")
    letters = (
        lines_of(20)
        .replace("shop.sell", "shop-of-letters.sell")
        .replace('"queue": "shop"', '"queue": "shop-of-letters"')
    )
    result_of(command(node, "import", "-"), keys=letters + a_raw_line("shop-of-letters"))

    done = result_of(command(node, "replay", "--all", "--wait"))

    assert done["tally"] == {"resolved": 21, "failed_again": 0, "replaying": 0}, node.logs()[-2_000:]
    assert runs_of(client) == [1] * 21


def test_five_thousand_letters_are_grouped_within_seconds(node, client):
    result_of(command(node, "import", "-"), keys=lines_of(5_000))

    took, groups = json.loads(
        node.run("""
import json, time
from petiole.tasks import dead_letters
began = time.perf_counter()
groups = dead_letters.group_dead_letters("fingerprint")
print(json.dumps([time.perf_counter() - began, [group.count for group in groups]]))
""")
    )

    assert groups == [500] * 10
    assert took < 15
