"""A bus on a broker, whose gateways are served."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from petiole.tasks import EventBus
from tests.support.apps import a_bus


@pytest.fixture
def bus(clean_broker_url: str) -> Iterator[EventBus]:
    with a_bus(clean_broker_url) as bus:
        yield bus
