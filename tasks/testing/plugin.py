"""The pytest plugin: the fixture `harness`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from petiole.tasks.testing.harness import EventTestHarness


@pytest.fixture
def harness() -> Iterator[EventTestHarness]:
    """Provide a new harness without agents; add them before the first publish."""
    from petiole.tasks.testing.harness import EventTestHarness

    with EventTestHarness() as harness:
        yield harness
