"""The system on which promises are tried: a bus, its worker, and what its handlers recorded.

On a broker the worker is a process of its own, which can be killed. Its keys and queues have names of this run, and are
deleted afterwards; the queue `publish` is the broker's own, so nothing else may use the broker meanwhile.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from amqp.exceptions import NotFound
from celery import Celery

from petiole.events.errors import UsageError
from petiole.tasks import Agent, EventBus
from petiole.tasks.broker.topology import PUBLISH_QUEUE, RABBITMQ, broker_queues
from petiole.tasks.settings import Settings
from petiole.tasks.transport.address import mask_secrets
from petiole.workers.conformance.agents import ORDER_VARIABLE, RUN_VARIABLE, agent_names, build_agents, records_key

START_TIMEOUT_S = 60.0
PROMISE_TIMEOUT_S = 30.0
POLL_S = 0.02
VISIBILITY_TIMEOUT_S = 1


class System:
    """A bus of a conformance run; without a broker, in this process."""

    def __init__(self, broker: str = "", state_store: str = "") -> None:
        self.run = f"conformance-{uuid4().hex[:8]}"
        self._environment = {
            "PETIOLE_KEY_PREFIX": self.run,
            "PETIOLE_VISIBILITY_TIMEOUT_S": str(VISIBILITY_TIMEOUT_S),
            "PETIOLE_BROKER_URL": broker,
            "PETIOLE_STATE_URL": state_store,
        }
        self.bus = _open_bus(broker, state_store, self.run)
        self.is_in_process = not broker
        self.keeps_order = self.is_in_process or self.bus.publishes_atomically
        self._worker: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="petiole-conformance-")
        if self.is_in_process:
            self.bus.include(*self._agents())

    @property
    def name(self) -> str:
        """The broker's kind: in-process, redis or rabbitmq."""
        return "in-process" if self.is_in_process else "rabbitmq" if self.bus.driver == RABBITMQ else "redis"

    def prepare(self) -> None:
        """Make the subscriptions known, without a worker. Raises UsageError if others use the broker."""
        if not self.is_in_process:
            if self.bus.driver == RABBITMQ:
                self._refuse_other_consumers()
            self.bus.stores.directory.register([each for agent in self._agents() for each in agent.subscriptions])

    def start_worker(self) -> None:
        """Start the worker; in this process, with the bus. Raises UsageError if it does not start."""
        if self.is_in_process:
            self.bus.start()
            return
        log = Path(self._folder.name) / "worker.log"
        with log.open("wb") as output:
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "petiole.workers", "worker", "--pool", "solo", "-l", "INFO",
                 "--without-mingle", "-n", f"{self.run}-{uuid4().hex[:4]}@%h"],
                env=_inherited() | self._set(),
                cwd=self._folder.name,
                stdout=output,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
        if not self.happens(lambda: b"ready." in log.read_bytes(), START_TIMEOUT_S):
            last_lines = log.read_text(errors="replace")[-2_000:]
            raise UsageError(f"the worker did not start on {self.name}; its last lines:\n{mask_secrets(last_lines)}")

    def kill_worker(self) -> None:
        """End the worker at once, with kill -9."""
        if self._worker is not None:
            self._worker.send_signal(signal.SIGKILL)
            self._worker.wait(10)
            self._worker = None

    def records(self, topic: str) -> list[str]:
        """List what the handlers of a topic recorded, in order."""
        texts: Any = self.bus.redis.lrange(records_key(self.run), 0, -1)
        return [text.partition(" ")[2] for text in texts if text.partition(" ")[0] == topic]

    def happens(self, condition: Callable[[], bool], within_s: float = PROMISE_TIMEOUT_S) -> bool:
        """Wait for a condition; returns whether it came about."""
        deadline = time.monotonic() + within_s
        while not condition():
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
        return True

    def close(self) -> None:
        """End the worker and delete what the run has left."""
        self.kill_worker()
        if not self.is_in_process:
            self._delete_queues()
            for key in self.bus.redis.scan_iter(f"{self.run}*"):
                self.bus.redis.delete(key)
        self.bus.close()
        self._folder.cleanup()

    def _agents(self) -> list[Agent]:
        return build_agents(self.run, keeps_order=self.keeps_order)

    def _set(self) -> dict[str, str]:
        own = {"PETIOLE_AGENTS": "petiole.workers.conformance.worker_agents", RUN_VARIABLE: self.run}
        if self.keeps_order:
            own[ORDER_VARIABLE] = "1"
        return own | {name: value for name, value in self._environment.items() if value}

    def _refuse_other_consumers(self) -> None:
        with self.bus.app.connection_for_read() as connection:
            channel: Any = connection.channel()
            for queue in broker_queues(PUBLISH_QUEUE, RABBITMQ):
                try:
                    consumers = channel.queue_declare(queue, passive=True).consumer_count
                except NotFound:
                    channel = connection.channel()
                    continue
                if consumers:
                    raise UsageError(
                        f"{consumers} workers consume the queue {queue!r}; give a virtual host that nothing else uses"
                    )

    def _delete_queues(self) -> None:
        if self.bus.driver != RABBITMQ:
            return
        with self.bus.app.connection_for_write() as connection:
            channel: Any = connection.channel()
            for agent in agent_names(self.run):
                for queue in broker_queues(agent, RABBITMQ):
                    channel.queue_delete(queue)


def _open_bus(broker: str, state_store: str, run: str) -> EventBus:
    limits = {"key_prefix": run, "visibility_timeout_s": VISIBILITY_TIMEOUT_S}
    settings = Settings.model_validate(limits | ({"state_url": state_store} if state_store else {}))
    if not broker:
        return EventBus(settings=settings)
    bus = EventBus(Celery(run, set_as_current=False), settings=settings)
    bus.use_broker(broker)
    return bus


def _inherited() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PETIOLE_", "CELERY_"))}
