"""Each store, on a real server and on the stand-in that an in-process bus uses."""

from __future__ import annotations

from collections.abc import Iterator

import fakeredis
import pytest
import redis

from petiole.tasks.settings import Settings
from petiole.tasks.stores import Stores, open_stores


@pytest.fixture(params=["fakeredis", "valkey"])
def client(request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    if request.param == "fakeredis":
        with fakeredis.FakeRedis(server=fakeredis.FakeServer(), decode_responses=True) as client:
            yield client
    else:
        with redis.Redis.from_url(request.getfixturevalue("clean_broker_url"), decode_responses=True) as client:
            yield client


@pytest.fixture
def stores(client: redis.Redis) -> Stores:
    return open_stores(client, Settings())
