"""A receiver of webhooks, and a server of answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from petiole.tasks import EventBus
from petiole.workers.channels import OutputChannel
from petiole.workers.channels.webhook import open_webhook
from tests.contracts.channels.answers import SECRET, Receiver, receiving
from tests.support.apps import a_bus, as_default


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch, bus: EventBus) -> Iterator[Receiver]:
    with receiving() as made:
        monkeypatch.setenv("PETIOLE_WEBHOOK_URL", made.url)
        monkeypatch.setenv("PETIOLE_WEBHOOK_SECRET", SECRET)
        monkeypatch.setenv("PETIOLE_WEBHOOK_TIMEOUT_S", "0.5")
        monkeypatch.setenv("NO_PROXY", "*")
        as_default(bus, monkeypatch)
        yield made


@pytest.fixture
def webhook(receiver: Receiver) -> OutputChannel:
    made = open_webhook()
    assert made is not None
    return made


@pytest.fixture
def bus(clean_broker_url: str, tmp_path: Path) -> Iterator[EventBus]:
    with a_bus(clean_broker_url, home=tmp_path) as bus:
        yield bus
