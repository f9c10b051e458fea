"""Sessions as an operator and beat see them: the command line, and real processes."""

from __future__ import annotations

import json

import pytest
import redis
from click.testing import CliRunner

from petiole.events import TextContent, TextMessageEvent
from petiole.tasks import Participant, enter_session
from petiole.tasks.celery import EventApp
from petiole.tasks.sessions.session import Session
from petiole.workers.cli import petiole
from petiole.workers.cli import sessions as command


@pytest.fixture
def app(clean_broker_url, monkeypatch):
    with EventApp("sessions", set_as_current=False) as app:
        app.conf.update(broker_url=clean_broker_url, result_backend=clean_broker_url)
        monkeypatch.setattr(command, "connected_app", lambda: app)
        yield app


def typed(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(petiole, ["sessions", *arguments])
    assert done.exit_code == code, done.output
    return done.output


def enter(app: EventApp, stream_id: str, text: str = "hi") -> None:
    enter_session(TextMessageEvent(stream_id=stream_id, content=TextContent(text=text)), app=app)


def test_sessions_are_listed_shown_and_ended(app):
    for stream_id in ("one", "two"):
        enter(app, stream_id)
    Session(app, "one").memory.set("topic", "tea")
    Session(app, "one").join(Participant(id="ada", name="Ada"))

    assert [each["session_id"] for each in json.loads(typed("list", "--json"))] == ["two", "one"]
    assert "two" in typed()
    shown = json.loads(typed("show", "one", "--json"))
    assert (shown["state"], shown["working_memory"], len(shown["events"])) == ("new", {"topic": "tea"}, 1)
    assert "ada user Ada" in typed("show", "one")
    assert "one has ended" in typed("end", "one")
    assert "one had ended before" in typed("end", "one")
    assert [each["session_id"] for each in json.loads(typed("--json"))] == ["two"]
    assert "did you mean 'two'?" in typed("show", "twos", code=1)
    assert [each.topic for each in app.stores.history.since()] == ["input.stream.ended"]


@pytest.mark.timeout(90)
def test_beat_ends_idle_sessions_once(node, app, clean_broker_url, eventually):
    node.environment.update(
        PETIOLE_AGENTS="petiole.workers.agents.supervisor",
        PETIOLE_TICK_INTERVAL_S="0",
        PETIOLE_METRICS_INTERVAL_S="0",
        PETIOLE_SESSION_END_TIMEOUT_S="1",
    )
    client = redis.Redis.from_url(clean_broker_url, decode_responses=True)
    node.worker("sweeping")
    for stream_id in ("one", "two", "three"):
        enter(app, stream_id)
    node.start("celery", "-A", "workers", "beat", "--pidfile=", "-s", str(node.home / "schedule"))

    eventually(lambda: not app.stores.sessions.live(), 30, node.logs)

    for stream_id in ("one", "two", "three"):
        facts = Session(app, stream_id).facts
        assert facts.end_reason == "idle"
        assert facts.ended_at is not None
        assert 1 <= (facts.ended_at - facts.last_activity).total_seconds() < 30
    told = [each.attributes["stream_id"] for each in app.stores.history.since() if each.topic == "input.stream.ended"]
    assert sorted(told) == ["one", "three", "two"]
    assert client.keys("petiole:session_*") == []
