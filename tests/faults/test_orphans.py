"""Processes of a prefork pool end with their worker, also those that it was about to fork when it was killed."""

from __future__ import annotations

import psutil

from tests.support.polling import PATIENCE

# A process that was forked waits until its worker is gone, if a file asks for it: before it does anything else.
AGENT = """
import os
import pathlib
import time
from petiole.events import Event
from petiole.tasks import Agent

agent = Agent("clerk")
late = pathlib.Path("late")
late.mkdir(exist_ok=True)
worker_pid = os.getpid()

@agent.on("message.note")
def note(event: Event) -> None: ...

def be_late() -> None:
    if pathlib.Path("be late").exists():
        (late / str(os.getpid())).touch()
        while os.getppid() == worker_pid:
            time.sleep(0.01)

os.register_at_fork(after_in_child=be_late)
"""


def test_processes_that_were_just_forked_when_their_worker_was_killed_end_as_well(node, eventually):
    node.module("agent_clerk", AGENT)
    node.environment["PETIOLE_AGENTS"] = "agent_clerk"
    worker = node.worker("w", "--pool", "prefork", "-c", "2")
    (node.home / "be late").touch()
    for process in psutil.Process(worker.pid).children():
        process.kill()
    eventually(lambda: len(list((node.home / "late").glob("*"))) == 2, 30, node.logs)
    late = [psutil.Process(int(file.name)) for file in (node.home / "late").glob("*")]

    worker.kill()

    left = psutil.wait_procs(late, timeout=10 * PATIENCE)[1]
    for process in left:
        process.kill()
    assert left == []
