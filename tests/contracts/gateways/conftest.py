"""A bus on a broker, whose gateways are served."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from petiole.tasks import EventBus
from tests.support.apps import a_bus


@pytest.fixture
def bus(clean_broker_url: str, tmp_path: Path) -> Iterator[EventBus]:
    with a_bus(clean_broker_url, home=tmp_path) as bus:
        yield bus
