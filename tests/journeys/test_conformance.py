"""`petiole conformance`: the same promises in one process, on Redis and on RabbitMQ."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from petiole.tasks import EventBus
from petiole.workers.cli import petiole
from petiole.workers.conformance import promises
from petiole.workers.conformance.promises import PROMISES
from tests.support.apps import a_bus


def run(*arguments: str) -> Result:
    return CliRunner().invoke(petiole, ["conformance", *arguments])


@pytest.mark.timeout(180)
def test_redis_keeps_every_promise_and_is_left_as_it_was(clean_broker_url, client):
    shown = run("--broker", clean_broker_url, "--json")

    assert shown.exit_code == 0, shown.output
    results = json.loads(shown.stdout)
    assert results.keys() == PROMISES.keys()
    assert {result["redis"] for result in results.values()} == {True}
    assert {result["in-process"] for result in results.values()} == {True, None}
    assert client.keys("*") == []


@pytest.mark.long
@pytest.mark.timeout(180)
def test_rabbitmq_keeps_every_promise_but_order(clean_broker_url, rabbit_url):
    results = json.loads(run("--broker", rabbit_url, "--state-store", clean_broker_url, "--json").stdout)

    not_kept = [promise for promise, result in results.items() if result["rabbitmq"] is not True]
    assert not_kept == ["the events of a stream come in order"]
    assert results[not_kept[0]]["rabbitmq"] is None


def test_a_broken_promise_is_shown_and_ends_with_1(monkeypatch):
    monkeypatch.setattr(promises, "PROMISES", {"each subscription gets each event once": lambda system: False})

    shown = run()

    assert shown.exit_code == 1
    assert "BROKEN" in shown.stdout


def test_a_terminal_shows_a_bar_of_the_promises_that_were_tried(monkeypatch):
    monkeypatch.setattr(promises, "PROMISES", {"each subscription gets each event once": lambda system: True})
    monkeypatch.setenv("FORCE_COLOR", "1")

    shown = run("--json")

    assert "1/1" in shown.stderr
    assert json.loads(shown.stdout)


def test_a_broker_without_a_state_store_is_refused_without_its_password():
    shown = run("--broker", "amqp://guest:hunter2@127.0.0.1:1//")

    assert shown.exit_code == 2
    assert "--state-store" in shown.output
    assert "hunter2" not in shown.output


@pytest.mark.long
def test_a_rabbitmq_that_others_use_is_refused(clean_broker_url, rabbit_url):
    bus: EventBus = a_bus(rabbit_url, state_url=clean_broker_url)
    with bus.app.connection_for_read() as connection:
        channel: Any = connection.channel()  # kombu's stubs type only what all transports share
        channel.queue_declare("publish", durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
        channel.basic_consume("publish", callback=lambda message: None)

        shown = run("--broker", rabbit_url, "--state-store", clean_broker_url)

    assert shown.exit_code == 1
    assert "1 workers consume the queue 'publish'" in shown.output
