"""The demo that stays: a system of its own to look at and to break, in a temporary home that is deleted at the end."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from rich.console import Console

from petiole.events.errors import missing_extra
from petiole.tasks.bus import default_bus
from petiole.workers.cli._conversation import Conversation
from petiole.workers.cli._options import load_types, open_listener, open_loopback_listener
from petiole.workers.console import CONSOLE_PORT, create_console, is_installed
from petiole.workers.console.breakable import DemoWorker
from petiole.workers.console.demo_agents import DemoOrder, DemoOrderPlacedEvent, model_switch
from petiole.workers.process import embedded_broker
from petiole.workers.process.child_processes import ChildProcess, node_name, start_worker, wait_for_worker
from petiole.workers.process.watchdog import Watchdog

_AGENTS = "petiole.workers.console.demo_agents"
_OPERATOR = "PETIOLE_OPERATOR"
_WORKERS = ("demo-1", "demo-2")
_SLOTS = 4
_RESTART_AFTER_S = 1.5
_POLL_S = 0.2
_ANSWER_TIMEOUT_S = 30.0
_CONVERSATION = (
    "Hello, can you help me?",
    "What is 12 * 7?",
    "What did I ask you to calculate?",
    "Order 3 cups of tea",
)


def run_console_demo(console: Console, port: int | None) -> None:
    """Start a system, fill it with something to see, and serve its console until Ctrl-C.

    Raises UsageError (missing_extra).
    """
    if not is_installed():
        raise missing_extra("the demo's console", "console")
    with ExitStack() as started:
        home = started.enter_context(_temporary_home())
        watchdog = Watchdog()
        watchdog.offer("home", partial(_remove_home, home))
        started.enter_context(watchdog)
        watchdog.add("home")
        started.callback(embedded_broker.stop_broker, home)
        embedded_broker.use_embedded_broker(default_bus)
        load_types(default_bus)
        system = DemoSystem(home, watchdog)
        started.callback(system.stop)
        console.print("starting a broker and two workers; it takes some seconds")
        system.start()
        _leave_something_to_see()
        listener = open_loopback_listener(CONSOLE_PORT) if port is None else open_listener("127.0.0.1", port)
        _serve(console, system, started.enter_context(listener))


class DemoSystem:
    """The worker processes of the demo, which are started again when they end, and the switch of its model."""

    def __init__(self, home: Path, watchdog: Watchdog) -> None:
        self._home = home
        self._watchdog = watchdog
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._children: dict[str, ChildProcess] = {}
        self._restarts = dict.fromkeys(_WORKERS, 0)
        self._supervisor = threading.Thread(target=self._supervise, name="demo-supervisor", daemon=True)

    def start(self) -> None:
        """Start the workers and wait until they reply. Raises Retryable (worker_not_started)."""
        for name in _WORKERS:
            self._children[name] = self._launch(name)
        for name, child in self._children.items():
            wait_for_worker(default_bus, child, node_name(name), log=self._log(name))
        self._supervisor.start()

    def stop(self) -> None:
        """Stop the workers."""
        self._stopping.set()
        if self._supervisor.is_alive():
            self._supervisor.join()
        for child in self._children.values():
            child.kill()

    def list_workers(self) -> Sequence[DemoWorker]:
        """Return the worker processes."""
        with self._lock:
            return [self._describe(name) for name in _WORKERS]

    def kill_worker(self) -> DemoWorker:
        """Kill the first worker with SIGKILL, and return what it was."""
        with self._lock:
            killed = self._describe(_WORKERS[0])
            self._children[killed.name].kill()
            return killed

    def stop_model(self) -> None:
        """Make the model unavailable."""
        model_switch(self._home).touch()

    def start_model(self) -> None:
        """Make the model available."""
        model_switch(self._home).unlink(missing_ok=True)

    def _describe(self, name: str) -> DemoWorker:
        child = self._children[name]
        return DemoWorker(name, child.process.pid, self._restarts[name], child.is_alive)

    def _supervise(self) -> None:
        """Start workers that ended again, as a service manager does."""
        while not self._stopping.wait(_POLL_S):
            for name in [each.name for each in self.list_workers() if not each.is_alive]:
                if self._stopping.wait(_RESTART_AFTER_S):
                    return
                child = self._launch(name)
                with self._lock:
                    self._children[name] = child
                    self._restarts[name] += 1

    def _launch(self, name: str) -> ChildProcess:
        with self._log(name).open("a", encoding="utf-8") as output:
            return start_worker(name, output=output, watchdog=self._watchdog, concurrency=_SLOTS)

    def _log(self, name: str) -> Path:
        return self._home / f"{name}.log"


@contextmanager
def _temporary_home() -> Iterator[Path]:
    """Make a home, and have this process and its children use it and no setting of the user's."""
    home = Path(tempfile.mkdtemp(prefix="petiole-demo-"))
    for name in [name for name in os.environ if name.startswith(("PETIOLE_", "CELERY_")) and name != _OPERATOR]:
        del os.environ[name]
    os.environ |= {
        "PETIOLE_HOME": str(home),
        "PETIOLE_AGENTS": f"petiole.workers.agents,{_AGENTS}",
        "PETIOLE_EVENT_TYPES": _AGENTS,
        "PETIOLE_TOOLS": _AGENTS,
        "PETIOLE_LLM": f"{_AGENTS}:DemoModel",
        "PETIOLE_METRICS": "true",
        "PETIOLE_VISIBILITY_TIMEOUT_S": "5",
    }
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _remove_home(home: Path) -> None:
    """Stop the broker of a demo that was killed, and delete its home."""
    embedded_broker.stop_broker(home)
    shutil.rmtree(home, ignore_errors=True)


def _leave_something_to_see() -> None:
    """Publish a conversation, whose last message waits for an approval, and an order that fails."""
    conversation = Conversation(default_bus, "demo-conversation", "ada")
    for text in _CONVERSATION:
        exchange = conversation.send(text)
        for _ in conversation.follow(exchange, _ANSWER_TIMEOUT_S):
            if exchange.pending_approvals:
                break
    default_bus.publish_many(
        DemoOrderPlacedEvent(stream_id="demo-orders", content=DemoOrder(work_s=0.1, is_poisoned=number == 1))
        for number in range(3)
    )


def _serve(console: Console, system: DemoSystem, listener: socket.socket) -> None:
    from petiole.workers.channels.http_server import build_server  # noqa: PLC0415 - needs an extra

    server = build_server(create_console(default_bus, trusts_loopback=True, breakable=system))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    console.print(f"console: {address}", style="bold", soft_wrap=True)
    console.print(f"break it: {address}break", soft_wrap=True)
    console.print("Ctrl-C ends the demo and deletes all that it made.", style="dim")
    with suppress(KeyboardInterrupt):  # uvicorn raises it again after it has closed all connections
        server.run(sockets=[listener])
