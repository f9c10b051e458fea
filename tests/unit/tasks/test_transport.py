from __future__ import annotations

import pytest
from kombu import Connection
from kombu.transport import redis as stock

import petiole.tasks.transport
from petiole.events.errors import UsageError
from petiole.tasks.transport import kombu_compat
from tests.support.errors import has_code


@pytest.fixture
def unchecked():
    """Have it looked again, here and afterwards."""
    kombu_compat.check_kombu.cache_clear()
    yield
    kombu_compat.check_kombu.cache_clear()


@pytest.mark.usefixtures("unchecked")
def test_a_kombu_without_an_overridden_method_is_refused(monkeypatch):
    monkeypatch.delattr(stock.Channel, "_brpop_start")

    with pytest.raises(
        UsageError, check=has_code("unsupported_kombu"), match=r"Channel\._brpop_start, it is missing; install kombu"
    ):
        _ = Connection("petiole+redis://127.0.0.1:1").transport


@pytest.mark.usefixtures("unchecked")
def test_a_kombu_whose_parameters_have_changed_is_refused(monkeypatch):
    monkeypatch.setattr(stock.QoS, "append", lambda self, message: None)

    with pytest.raises(
        UsageError, check=has_code("unsupported_kombu"), match=r"QoS\.append, it takes \(message\); install kombu"
    ):
        _ = Connection("petiole+redis://127.0.0.1:1").transport


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://:pw@host:1/2", "petiole+redis://:pw@host:1/2"),
        ("rediss://host", "petiole+rediss://host"),
        ("redis+socket:///tmp/s?virtual_host=1", "petiole+socket:///tmp/s?virtual_host=1"),
        ("sentinel://a:1;sentinel://b:2", "petiole+sentinel://a:1;petiole+sentinel://b:2"),
        ("amqp://host", "amqp://host"),
        ("memory://", "memory://"),
        ("petiole+redis://host", "petiole+redis://host"),
    ],
)
def test_redis_brokers_use_our_transport(url, expected):
    assert petiole.tasks.transport.with_transport_prefix(url) == expected


def test_the_plain_url_has_no_transport_prefix():
    assert (
        petiole.tasks.transport.without_transport_prefix("petiole+redis://a;petiole+rediss://b")
        == "redis://a;rediss://b"
    )
    assert petiole.tasks.transport.without_transport_prefix("petiole+socket:///tmp/s") == "redis+socket:///tmp/s"
    assert petiole.tasks.transport.without_transport_prefix("amqp://a") == "amqp://a"
