"""Apps: one on a broker, and what takes the default one's place for a test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner, Result
from redis import Redis

from petiole.events.event import Event
from petiole.events.subscriptions import Subscription
from petiole.tasks import Agent, EventBus, Publication, runtime
from petiole.tasks.broker import producer
from petiole.tasks.publishing.commit import commit
from petiole.tasks.publishing.validation import validate
from petiole.tasks.settings import Settings
from petiole.tasks.testing import EventTestHarness
from petiole.workers.cli import petiole
from petiole.workers.tools import ToolRegistry

_COMMANDS = (
    "agents",
    "approvals",
    "breakers",
    "chat",
    "counters",
    "dead_letters",
    "doctor",
    "memory",
    "parked",
    "replay",
    "sessions",
    "shadows",
    "subscriptions",
    "trace",
)


def a_bus(
    url: str = "",
    *heard_by: Agent | Subscription,
    conf: dict[str, Any] | None = None,
    settings: Settings | None = None,
    state: Redis | None = None,
    **limits: Any,
) -> EventBus:
    """Make a bus that publishes to a broker, where these subscribe; settings of ours, and of Celery as `conf`."""
    bus = EventBus(Celery("tests", set_as_current=False), settings=settings or Settings.model_validate(limits))
    if url:
        bus.app.conf.update({"broker_url": url, "result_backend": limits.get("state_url", url)})
    bus.app.conf.update(conf or {})
    bus._state = state
    if heard_by:
        subscribe(bus, *heard_by)
    return bus


def subscribe(bus: EventBus, *heard_by: Agent | Subscription) -> None:
    """Let these get what is published, as if a worker that serves them had started."""
    bus.stores.directory.register(
        subscription
        for each in heard_by
        for subscription in (each.subscriptions if isinstance(each, Agent) else (each,))
    )


def publish_once(bus: EventBus, event: Event) -> Publication:
    """Publish an event without trying again, so that what the broker says is seen."""
    return publish_all_once(bus, [event])[0]


def publish_all_once(bus: EventBus, events: Iterable[Event]) -> list[Publication]:
    """Publish events in one step, without trying again."""
    return commit(bus, [validate(bus, event) for event in events])


def as_default(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let functions outside handlers use this bus."""
    monkeypatch.setattr(runtime, "_default", [bus])


def command_line(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Give what types `petiole …` at this app; `keys` is what is typed then."""
    for module in _COMMANDS:
        monkeypatch.setattr(f"petiole.workers.cli.{module}.connected_app", lambda: bus)

    def type_(*arguments: str, keys: str = "") -> Result:
        return CliRunner().invoke(petiole, arguments, input=keys)

    return type_


def wait_for_confirmations(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let publishers wait so long for RabbitMQ to confirm."""
    monkeypatch.setitem(producer._CONFIRM_OPTIONS, "confirm_timeout", seconds)


def ask_the_state_store_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each guarded call ask the state store, also right after it was away."""
    monkeypatch.setattr("petiole.tasks.resilience.fail_open.STORE_RETRY_AFTER_S", 0.0)


@contextmanager
def state_store_away(harness: EventTestHarness) -> Iterator[None]:
    """Let a harness have no state store for as long as the block."""
    in_process = harness.bus._in_process
    assert in_process is not None
    server: Any = in_process._server
    server.connected = False
    try:
        yield
    finally:
        server.connected = True


def serve_tools(registry: ToolRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the agent `tools` have these tools and no others."""
    monkeypatch.setattr("petiole.workers.agents.tools.installed_tools", lambda: registry)


def replay_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a replay that was begun and never sent be begun again at once."""
    monkeypatch.setattr(sys.modules["petiole.tasks.dead_letters.replay"], "RESEND_AFTER", timedelta(0))
