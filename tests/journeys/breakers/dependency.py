"""A dependency that fails as it is told to, and its circuit breaker."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message

from petiole.events import Event
from petiole.tasks import EventBus
from petiole.tasks.stores.circuits import Circuit
from tests.support.inside import Inside

RESET_S = 30


ONCE = {"attempts": 1, "reset": RESET_S}


class Dependency:
    """Something that is called, and raises what it is told to."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: BaseException | None = ConnectionError("it is down")

    def __call__(self) -> str:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return "done"


def attempt(call: Callable[[], object], times: int = 1) -> list[object]:
    """Call so often; returns what came of it."""
    ended: list[object] = []
    for _ in range(times):
        try:
            ended.append(call())
        except Exception as error:  # noqa: BLE001 - it is what is asserted on
            ended.append(error)
    return ended


def circuit(bus: EventBus, name: str = "shop.stock") -> Circuit:
    return Inside(bus).circuits()[name]


def told(harness, pattern: str = "") -> list[Event]:
    return [each for each in harness.published_events() if "circuit" in each.event_type and pattern in each.event_type]


def http_error(status: int, **headers: str) -> urllib.error.HTTPError:
    message = Message()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return urllib.error.HTTPError("http://127.0.0.1/", status, "no", message, None)
