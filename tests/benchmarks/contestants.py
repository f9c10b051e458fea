"""The workers of the benchmark: the same no-op as Petiole's agents and as plain Celery's tasks.

Both receive the same event and validate it with pydantic. `celery -A contestants:plain` runs Celery as a careful user
tunes it. Petiole's workers load this module through PETIOLE_AGENTS.
"""

from __future__ import annotations

import os

from celery import Celery
from kombu import Queue

from petiole.events import Event, TextMessageEvent
from petiole.tasks import Agent

SUBSCRIBERS = 3
BATCH = int(os.environ.get("BENCH_BATCH") or 0) or None


def _agent(number: int) -> Agent:
    agent = Agent(f"bench-{number}")

    @agent.on("input.*", batch=BATCH)
    def ignore(event: Event) -> None: ...

    return agent


def echo(number: int) -> int:
    """Return the argument."""
    return number


agent_0, agent_1, agent_2 = (_agent(number) for number in range(SUBSCRIBERS))

agent_0.answers("echo")(echo)

url = os.environ.get("PETIOLE_BROKER_URL")
plain = Celery("plain", broker=url, backend=url, set_as_current=False)
plain.task(name="plain-0.echo", ignore_result=False)(echo)
plain.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=128,
    worker_send_task_events=False,
    task_acks_late=True,
    task_queues=[Queue(f"plain-{number}") for number in range(SUBSCRIBERS)],
    broker_connection_retry_on_startup=True,
)


def _task(number: int) -> None:
    @plain.task(name=f"plain-{number}.ignore")
    def ignore(document: dict[str, object]) -> None:
        TextMessageEvent.model_validate(document)


for _number in range(SUBSCRIBERS):
    _task(_number)
