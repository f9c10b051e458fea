"""Every command, with words that it cannot take: one line that names them, no traceback, and nothing is changed."""

from __future__ import annotations

import importlib

import pytest
from click.testing import CliRunner

from petiole.events import Event
from petiole.tasks import Agent
from petiole.tasks.testing import EventTestHarness
from petiole.workers.cli import petiole
from tests.support.apps import as_default

NO_UTF8 = "\udcff"
COMMANDS = ("agents", "approvals", "breakers", "dead_letters", "replay", "sessions", "shadows", "subscriptions", "tail")

REFUSED = [
    ("pubish", "Did you mean 'publish'?"),
    ("publish input.mesage.received --stream s", "did you mean 'input.message.received'?"),
    ("publish input.message.received --stream s --content [", "--content"),
    ("publish input.message.received --stream s --content []", "--content"),
    ('publish input.message.received --stream s --content {"txt":"a"}', "content.text"),
    ('publish input.message.received --stream s --content {"text":NaN}', "content.text"),
    ("replay keeper.kep", "did you mean 'keeper.keep'?"),
    ("replay keeper.keep --rate nan", "--rate"),
    ("replay keeper.keep --rate inf", "--rate"),
    ("replay keeper.keep --rate 0", "--rate"),
    ("replay keeper.keep --since soon", "--since"),
    ("replay keeper.keep --pattern A", "--pattern"),
    ("replay keeper.keep --pattern imput.*", "did you mean 'input.*'?"),
    (f"replay keeper.keep --id {NO_UTF8}", "UTF-8"),
    ("agents pause keepr", "did you mean 'keeper'?"),
    ("sessions show unknown", "unknown"),
    ("sessions end unknown --reason over", "--reason"),
    (f"sessions show {NO_UTF8}", "UTF-8"),
    ("subscriptions --explain input.mesage.received", "did you mean 'input.message.received'?"),
    ("subscriptions withdraw keeper.kep --drain", "did you mean 'keeper.keep'?"),
    ("subscriptions withdraw keeper.keep", "--drain"),
    ("shadows keeper.keep --limit 0", "--limit"),
    (f"shadows {NO_UTF8}", "UTF-8"),
    ("tail A", "PATTERN"),
    ("tail --timeout nan", "--timeout"),
    ("tail --timeout inf", "--timeout"),
    ("tail --count 0", "--count"),
    ("breakers open unknown --for nan", "--for"),
    (f"breakers open {NO_UTF8}", "UTF-8"),
    (f"approvals deny {NO_UTF8}", "UTF-8"),
    ("approvals grant unknown", "unknown"),
    ("chat --timeout nan", "--timeout"),
    ("dead-letters show unknown", "unknown"),
    (f"dead-letters show {NO_UTF8}", "UTF-8"),
    ("dead-letters list --state open", "--state"),
    ("dead-letters list --group colour", "--group"),
    ("dead-letters replay --all --rate nan", "--rate"),
    ("dead-letters replay --all --wait --timeout nan", "--timeout"),
    ("dead-letters replay --group colour=red", "--group"),
    ("dead-letters replay", "--all"),
    ("dead-letters discard --yes", "--all"),
    ("dead-letters import no_text.bin", "line 1"),
    ("dead-letters import broken.json", "line 1"),
    ("dead-letters import missing.json", "missing.json"),
    ("dead-letters export missing/letters.json", "missing/letters.json"),
    ("serve --port 99999", "--port"),
    ("up --concurrency 0", "--concurrency"),
]


def keep(event: Event) -> None: ...


@pytest.fixture(scope="module")
def harness():
    agent = Agent("keeper")
    agent.on("input.*")(keep)
    with EventTestHarness([agent]) as harness:
        harness.bus.start()
        yield harness


@pytest.mark.parametrize(("words", "named"), REFUSED, ids=[ascii(words) for words, _ in REFUSED])
def test_a_command_refuses_what_it_cannot_take_by_its_name(harness, monkeypatch, tmp_path, words, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no_text.bin").write_bytes(b"\xff\xfe\x00{")
    (tmp_path / "broken.json").write_text('{"letter":')
    as_default(harness.bus, monkeypatch)
    for command in (*COMMANDS, "publish", "chat"):
        module = importlib.import_module(f"petiole.workers.cli.{command}")
        monkeypatch.setattr(module, "connected_app", lambda: harness.bus, raising=False)

    done = CliRunner().invoke(petiole, words.split(" "))

    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code != 0
    assert "Error: " in done.output
    assert named in done.output.replace("\n", " ")
    assert "Traceback" not in done.output
    published = {each.event_type for each in harness.published_events()}
    assert published <= {"operator.action.recorded"}, "a refusal may be recorded"
    assert harness.dead_letters() == []
