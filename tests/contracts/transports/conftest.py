"""Connections over kombu's transport and ours."""

from __future__ import annotations

import pytest
import redis

import petiole.tasks.transport
from tests.contracts.transports.connections import OURS, STOCK


@pytest.fixture(params=[STOCK, OURS])
def url(request, clean_broker_url):
    """Give the URL of a real server, by each transport."""
    return {STOCK: clean_broker_url, OURS: petiole.tasks.transport.with_transport_prefix(clean_broker_url)}[
        request.param
    ]


@pytest.fixture
def server(clean_broker_url):
    return redis.Redis.from_url(clean_broker_url)
