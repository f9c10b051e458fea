from __future__ import annotations

import signal

import pytest

AGENTS = """
from petiole import Agent, Event

memory, llm = Agent("memory"), Agent("llm")

@memory.on("input.*")
def keep(event: Event) -> None: ...

@llm.on("input.*")
def answer(event: Event) -> None: ...
"""


@pytest.fixture
def system(node):
    node.module("house", AGENTS)
    node.environment["PETIOLE_AGENTS"] = "house"
    return node


def refuse(node, *options: str) -> int:
    process = node.start("celery", "-A", "workers", "worker", "-P", "solo", "-l", "INFO", "--without-mingle", *options)
    return int(process.wait(timeout=60))


@pytest.mark.parametrize("option", ["-Q", "-X"])
def test_a_worker_for_a_queue_that_no_agent_has_does_not_start_and_names_the_nearest(system, option):
    assert refuse(system, option, "memry") == 1
    assert f"{option} 'memry': no agent of this app has that queue; did you mean 'memory'?" in system.logs()


def test_a_second_worker_with_the_node_name_of_a_running_one_does_not_start(system):
    first = system.worker("same")

    assert refuse(system, "-n", "same@%h") != 0
    assert "already runs; give each worker a name of its own" in system.logs()
    assert first.poll() is None


def test_a_worker_that_was_killed_starts_again_under_its_name(system):
    killed = system.worker("same")
    killed.send_signal(signal.SIGKILL)
    killed.wait(timeout=20)

    again = system.worker("same")

    assert again.poll() is None
