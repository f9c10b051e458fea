"""A service that answers: in the harness, and in real workers."""

from __future__ import annotations

import pytest

from petiole.tasks.testing import EventTestHarness
from tests.journeys.requests.service import SERVICE, a_data_service


@pytest.fixture
def asked(harness: EventTestHarness) -> EventTestHarness:
    harness.add(a_data_service())
    return harness


@pytest.fixture
def service(node):
    node.environment["PETIOLE_AGENTS"] = "service"
    node.module("service", SERVICE)
    return node
