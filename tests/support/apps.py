"""Apps: one on a broker, and what takes the default one's place for a test."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from click.testing import CliRunner, Result

from petiole.events.event import Event
from petiole.events.subscriptions import Subscription
from petiole.tasks import Agent, Publication
from petiole.tasks.broker import producer
from petiole.tasks.celery import EventApp
from petiole.tasks.publication import Publish
from petiole.tasks.publishing.commit import dispatch
from petiole.tasks.publishing.validation import checked
from petiole.tasks.settings import Settings
from petiole.tasks.testing import EventTestHarness
from petiole.tasks.transport import ours
from petiole.workers.cli import petiole
from petiole.workers.tools import ToolRegistry

_COMMANDS = ("approvals", "breakers", "dead_letters", "sessions", "shadows", "subscriptions")
_STEPS = (
    "petiole.tasks.resilience.guarded",
    "petiole.tasks.resilience.rate_limits",
    "petiole.tasks.patterns.idempotency",
    "petiole.tasks.sessions.session",
)


def an_app(url: str, *heard_by: Agent | Subscription, conf: dict[str, Any] | None = None, **settings: Any) -> EventApp:
    """Make an app that publishes to a broker, where these subscribe; settings of ours, and of Celery as `conf`."""
    app = EventApp("tests", settings=Settings.model_validate(settings), set_as_current=False)
    app.conf.update({"broker_url": ours(url), "result_backend": settings.get("state_url", url)} | (conf or {}))
    app.adopt(Publish)
    if heard_by:
        subscribe(app, *heard_by)
    return app


def subscribe(app: EventApp, *heard_by: Agent | Subscription) -> None:
    """Let these get what is published, as if a worker that serves them had started."""
    app.stores.directory.announce(
        subscription
        for each in heard_by
        for subscription in (each.subscriptions if isinstance(each, Agent) else (each,))
    )


def publish_once(app: EventApp, event: Event) -> Publication:
    """Publish an event without trying again, so that what the broker says is seen."""
    return publish_all_once(app, [event])[0]


def publish_all_once(app: EventApp, events: Iterable[Event]) -> list[Publication]:
    """Publish events in one step, without trying again."""
    return dispatch(app, [checked(app, event) for event in events])


def as_default(app: EventApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let functions outside handlers use this app."""
    for module in _STEPS:
        monkeypatch.setattr(f"{module}.default_app", app)


def command_line(app: EventApp, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Give what types `petiole …` at this app; `keys` is what is typed then."""
    for module in _COMMANDS:
        monkeypatch.setattr(f"petiole.workers.cli.{module}.connected_app", lambda: app)

    def type_(*arguments: str, keys: str = "") -> Result:
        return CliRunner().invoke(petiole, arguments, input=keys)

    return type_


def wait_for_confirmations(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let publishers wait so long for RabbitMQ to confirm."""
    monkeypatch.setitem(producer._CONFIRMED, "confirm_timeout", seconds)


def ask_the_state_store_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each guarded call ask the state store, also right after it was away."""
    monkeypatch.setattr("petiole.tasks.resilience.fail_open.AWAY_S", 0.0)


@contextmanager
def state_store_away(harness: EventTestHarness) -> Iterator[None]:
    """Let a harness have no state store for as long as the block."""
    server: Any = vars(harness.app)["server"]
    server.connected = False
    try:
        yield
    finally:
        server.connected = True


def serve_tools(registry: ToolRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the agent `tools` have these tools and no others."""
    monkeypatch.setattr("petiole.workers.agents.tools.installed_tools", lambda: registry)
