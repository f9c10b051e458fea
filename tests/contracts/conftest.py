"""The engine of deliveries, on a real server and on the stand-in that an in-process bus uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import fakeredis
import pytest
import redis

from tests.support.engine import Engine


@pytest.fixture(params=["fakeredis", "valkey"])
def make_engine(request: pytest.FixtureRequest) -> Iterator[Callable[..., Engine]]:
    """Return a function that opens an engine with these settings, on the same server."""
    connect: Any
    if request.param == "fakeredis":
        connect = partial(fakeredis.FakeRedis, server=fakeredis.FakeServer())
    else:
        connect = partial(redis.Redis.from_url, request.getfixturevalue("clean_broker_url"))
    with ExitStack() as stack:
        texts, raw = (stack.enter_context(connect(decode_responses=decodes)) for decodes in (True, False))
        yield partial(Engine, texts, raw)


@pytest.fixture
def engine(make_engine: Callable[..., Engine]) -> Engine:
    """Return an engine with the default settings."""
    return make_engine()


@pytest.fixture
def server_engine(clean_broker_url: str) -> Iterator[Engine]:
    """Return an engine on a real server, for what the stand-in does not have."""
    with (
        redis.Redis.from_url(clean_broker_url, decode_responses=True) as texts,
        redis.Redis.from_url(clean_broker_url) as raw,
    ):
        yield Engine(texts, raw)
