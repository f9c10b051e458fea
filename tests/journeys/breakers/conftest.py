"""A dependency that fails as it is told to, and its circuit breaker."""

from __future__ import annotations

import pytest

from petiole.tasks import EventBus
from petiole.tasks.testing import EventTestHarness
from tests.support.apps import as_default


@pytest.fixture
def bus(harness: EventTestHarness, monkeypatch: pytest.MonkeyPatch) -> EventBus:
    """Give a bus whose time stands still until it is skipped, more or less."""
    as_default(harness.bus, monkeypatch)
    return harness.bus
