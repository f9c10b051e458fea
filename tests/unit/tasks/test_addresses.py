"""Every address of a broker or a state store is served, or refused with what to do, and no error shows a secret."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import pytest
from celery import Celery

from petiole.events import TextContent, TextMessageEvent
from petiole.events.errors import NotConfigured
from petiole.tasks import EventBus
from petiole.tasks.settings import Settings
from petiole.tasks.transport.address import (
    check_broker_address,
    check_state_address,
    mask_secrets,
    result_backend,
)
from petiole.workers.cli.config import effective_settings
from petiole.workers.observability.logging import build_formatter
from tests.support.apps import a_bus

SECRET = "s3cretpw"

REFUSED = [
    (f"redis://:{SECRET}/x@h:1/0", "%2F"),
    (f"redis://:x/{SECRET}@h:1/0", "%2F"),
    (f"redis://:{SECRET}#x@h:1", "%23"),
    (f"redis://:{SECRET}?x@h:1", "%3F"),
    (f"redis://:{SECRET}[x@h:1", "%5B"),
    (f"redis://:{SECRET};x@h:1", "%3B"),
    (f"redis://{SECRET}:x:y", "port"),
    (f"amqp://u:{SECRET}/x@h:1//", "%2F"),
    ("redis://h:99999/0", "1 to 65535"),
    ("redis://h:0", "1 to 65535"),
    ("redis://h:port", "1 to 65535"),
    ("redis://h:1/shop", "database number"),
    ("redis://h:1/0?nonsense=5", r"\(nonsense\)"),
    (f"redis://h:1/0?nonsense={SECRET}", r"\(nonsense\)"),
    (f"redis://:{SECRET}@a,b:1", "redis://HOST1;redis://HOST2"),
    (f"redis+cluster://:{SECRET}@h", "use one server or Sentinel"),
    (f"rediss+cluster://:{SECRET}@h", "use one server or Sentinel"),
    ("redis:/h", "no scheme"),
    ("h:6379", "no scheme"),
    (f"http://u:{SECRET}@h", "PETIOLE_"),
    (f"redis://:{SECRET}@h;amqp://i", "PETIOLE_"),
    (f"redis://:{SECRET}@h;i:1", "no scheme"),
    ("rediss://h?ssl_cert_reqs=bogus", r"\(ssl_cert_reqs\)"),
    ("redis://h?protocol=9", r"\(protocol\)"),
    ("unix:///x?db=a", "unix:///PATH\\?db=0"),
    ("redis://h/٣", "database number"),
    (f"redis://:{SECRET}@::1:6379/0", r"redis://\[::1\]:PORT"),
]


@pytest.mark.parametrize(("address", "remedy"), REFUSED)
@pytest.mark.parametrize("check", [check_broker_address, check_state_address])
def test_an_address_that_cannot_be_used_is_refused_with_what_to_do(check, address, remedy):
    with pytest.raises(NotConfigured, match=remedy) as refusal:
        check(address)

    assert SECRET not in f"{refusal.value!r} {refusal.value} {refusal.value.__cause__}"


@pytest.mark.parametrize(("address", "remedy"), REFUSED)
def test_it_is_refused_wherever_it_comes_from(address, remedy, monkeypatch):
    for broker, state in ((address, "redis://h"), ("redis://h", address)):
        bus = EventBus(Celery("shop", broker=broker, set_as_current=False), settings=Settings(state_url=state))
        with pytest.raises(NotConfigured):
            bus.check_configuration()


@pytest.mark.parametrize(
    ("address", "broker", "state"),
    [
        ("redis://:p@h:1/2", "redis://:p@h:1/2", "redis://:p@h:1/2"),
        ("REDIS://h", "redis://h", "redis://h"),
        ("valkey://h:1", "redis://h:1", "redis://h:1"),
        ("valkeys://h:1", "rediss://h:1", "rediss://h:1"),
        ("rediss://h?ssl_cert_reqs=required", "rediss://h?ssl_cert_reqs=required", "rediss://h?ssl_cert_reqs=required"),
        ("unix:///run/s?db=1", "redis+socket:///run/s?virtual_host=1", "unix:///run/s?db=1"),
        ("redis+socket:///run/s?virtual_host=1", "redis+socket:///run/s?virtual_host=1", "unix:///run/s?db=1"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("redis://:p%2Fw@h", "redis://:p%2Fw@h", "redis://:p%2Fw@h"),
        ("redis://a:1;redis://b:2", "redis://a:1;redis://b:2", None),
        ("amqp://u:p@h:5672//;amqp://i", "amqp://u:p@h:5672//;amqp://i", None),
        ("amqps://u:p@h/v%2Fx", "amqps://u:p@h/v%2Fx", None),
        ("petiole+redis://h", "petiole+redis://h", None),
        ("petiole+socket:///run/s", "petiole+socket:///run/s", None),
        ("memory://", "memory://", None),
        ("", "", ""),
    ],
)
def test_an_address_is_served_in_the_form_that_each_library_reads(address, broker, state):
    assert check_broker_address(address) == broker
    if state is None:
        with pytest.raises(NotConfigured, match="PETIOLE_STATE_URL"):
            check_state_address(address)
    else:
        assert check_state_address(address) == state


def test_results_are_kept_at_one_redis_only():
    assert result_backend("valkey://h") == "redis://h"
    assert result_backend("unix:///run/s") == "redis+socket:///run/s"
    assert [result_backend(each) for each in (None, "amqp://h", "redis://a;redis://b", "nonsense")] == [None] * 4


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"redis://:{SECRET}@a;redis://u:{SECRET}@b", "redis://:***@a;redis://u:***@b"),
        (f"at amqp://u:{SECRET}/#?x@y@h:1// it", "at amqp://u:***@h:1// it"),
        (f"unix:///s?db=1&password={SECRET}&x=1", "unix:///s?db=1&password=***&x=1"),
        (f'{{"url": "redis://:{SECRET}@h", "by": "a@b"}}', '{"url": "redis://:***@h", "by": "a@b"}'),
        ("http://h:80/x and a@b", "http://h:80/x and a@b"),
    ],
)
def test_passwords_of_addresses_are_masked_in_any_text(text, masked):
    assert mask_secrets(text) == masked


@pytest.mark.parametrize(
    ("address", "masked"),
    [
        (f'redis://:{SECRET}"{SECRET}@127.0.0.1:1/0', "redis://***@127.0.0.1:1/0"),
        (f"redis://user:p;{SECRET}@h:1;redis://b:2", "redis://***@h:1;redis://b:2"),
        (f"amqp://u:{SECRET}/#?x@y@h:1//", "amqp://***@h:1//"),
        (f"redis://:{SECRET}", "redis://***"),
        (f"u:{SECRET}@h", "***"),
        (f"unix:///s?db=1&password={SECRET}", "unix:///s?db=1&password=***"),
        ("sentinel://[::1]:1;sentinel://b/0?master_name=m", "sentinel://[::1]:1;sentinel://b/0?master_name=m"),
    ],
)
def test_a_setting_with_an_address_shows_no_part_of_a_password(address, masked, monkeypatch):
    monkeypatch.setenv("PETIOLE_STATE_URL", address)
    shown = {each.variable: each.value for each in effective_settings(a_bus("memory://"))}

    assert shown["PETIOLE_STATE_URL"] == masked


@pytest.mark.parametrize("act", ["publish", "delay", "check_configuration"])
def test_an_address_of_sentinel_without_a_master_is_refused_wherever_it_is_used(act):
    bus = a_bus("memory://", settings=Settings(state_url="sentinel://h:1/0"))
    event = TextMessageEvent(stream_id="s", content=TextContent(text="hi"))
    acts: dict[str, Callable[[], object]] = {
        "publish": partial(bus.publish, event),
        "delay": partial(bus.publish.delay, event),
        "check_configuration": bus.check_configuration,
    }

    with pytest.raises(NotConfigured, match=r"^the state store is not configured: .*append \?master_name=NAME"):
        acts[act]()


def test_a_refusal_of_the_state_stores_address_is_told_once():
    bus = a_bus("memory://", settings=Settings(state_url="redis://h/shop"))

    with pytest.raises(NotConfigured) as refusal:
        bus.publish(TextMessageEvent(stream_id="s", content=TextContent(text="hi")))

    assert str(refusal.value).count("is not configured") == 1


def test_the_broker_needs_a_master_too_unless_celery_names_it():
    with pytest.raises(NotConfigured, match=r"the broker is not configured: .*master_name"):
        a_bus("sentinel://h:1/0", settings=Settings(state_url="redis://h")).check_addresses()

    a_bus("sentinel://h:1/0", conf={"broker_transport_options": {"master_name": "m"}}).check_addresses()


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_no_log_line_shows_the_password_of_an_address(log_format):
    address = f"redis://:{SECRET}@a;redis://:{SECRET}/#x@b"
    error = ValueError(f"invalid literal: {address}")
    record = logging.LogRecord("x", logging.ERROR, "", 1, "failed: %s", (address,), (ValueError, error, None))
    record.address = address

    assert SECRET not in build_formatter(log_format, colorize=False).format(record)


def test_the_settings_do_not_show_their_addresses():
    settings = Settings(broker_url=f"redis://:{SECRET}@h", state_url=f"redis://:{SECRET}@h")

    assert SECRET not in repr(settings)
