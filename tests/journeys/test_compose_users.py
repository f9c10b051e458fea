"""The server's user of docker-compose.yml may do what a system needs, and may not administer the server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import redis
from ruamel.yaml import YAML

from tests.support.processes import ROOT, Node

ADMINISTRATION = [
    "FLUSHALL",
    "SHUTDOWN",
    "CONFIG SET maxmemory 1",
    "ACL LIST",
    "MODULE LIST",
    "REPLICAOF h 1",
    "KEYS *",
]

AGENT = """
from petiole import Agent

agent = Agent("echo")

@agent.on("input.message.received")
def handle(event):
    raise ValueError("this agent never succeeds")
"""

PUBLISH = """
from petiole import publish
from petiole.events import TextContent, TextMessageEvent
publish.delay(TextMessageEvent(stream_id="s", content=TextContent(text="Hello")))
"""


@pytest.fixture
def user_url(clean_broker_url: str) -> Iterator[str]:
    """Make the user of the compose file on the tests' server; yields its address."""
    users = YAML(typ="safe").load(ROOT / "docker-compose.yml")["configs"]["users"]["content"]
    _, name, *rules = re.sub(r"\$\{[^}]*\}", "secret", users.splitlines()[1]).split()
    own = urlsplit(clean_broker_url).netloc.rpartition("@")[0]
    with redis.Redis.from_url(clean_broker_url) as admin:
        admin.execute_command("ACL", "SETUSER", name, *rules)
        yield clean_broker_url.replace(own, f"{name}:secret", 1)
        admin.execute_command("ACL", "DELUSER", name)


def test_a_system_runs_as_the_user_of_the_compose_file(node: Node, user_url, inside, eventually):
    node.environment["PETIOLE_BROKER_URL"] = user_url
    node.environment["PETIOLE_AGENTS"] = "echoing"
    node.module("echoing", AGENT)
    node.worker("echo")

    node.run(PUBLISH)
    eventually(lambda: inside.delayed() or inside.dead_letters(), 30, node.logs)

    assert "permission" not in node.logs().lower()
    assert "NOPERM" not in node.command("agents")


def test_the_user_of_the_compose_file_administers_nothing(user_url):
    with redis.Redis.from_url(user_url) as client:
        for command in ADMINISTRATION:
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command.split())
