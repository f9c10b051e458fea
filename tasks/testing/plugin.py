"""The pytest plugin: a fresh harness for each test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from petiole.tasks.testing.harness import EventTestHarness


@pytest.fixture
def harness() -> Iterator[EventTestHarness]:
    """Give a harness without agents; add them before the first publish."""
    with EventTestHarness() as harness:
        yield harness
