"""Answers on their way out: each channel once, whatever fails; with the harness, and with workers that die."""

from __future__ import annotations

import base64
import io
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from petiole.events import Event, FormattedResponse, ProactiveSuggestion, ProactiveSuggestionEvent, ResponseReadyEvent
from petiole.events.catalog.output import MessageFailedEvent, MessageSentEvent, SuggestionDroppedEvent
from petiole.tasks import end_session, open_session
from petiole.tasks.testing import EventTestHarness
from petiole.workers.agents import output
from petiole.workers.agents.output import DROPPED_SUGGESTIONS_COUNTER
from petiole.workers.channels import Terminal, open_channels
from tests.support.inside import Inside

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


@dataclass
class Receiver:
    """What a webhook's receiver got, by id; and the statuses it answers with, the last for ever."""

    statuses: list[int] = field(default_factory=lambda: [204])
    got: list[str] = field(default_factory=list)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    made = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            made.got.append(self.headers["webhook-id"])
            self.send_response(made.statuses.pop(0) if len(made.statuses) > 1 else made.statuses[0])
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    monkeypatch.setenv("PETIOLE_WEBHOOK_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("PETIOLE_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("NO_PROXY", "*")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def team() -> Iterator[EventTestHarness]:
    with EventTestHarness([output.agent]) as harness:
        yield harness


def a_response(text: str = "84", channel: str | None = None, **fields: object) -> ResponseReadyEvent:
    content = FormattedResponse(text=text, channel=channel)
    return ResponseReadyEvent.model_validate({"stream_id": "s", "content": content} | fields)


def a_suggestion() -> ProactiveSuggestionEvent:
    content = ProactiveSuggestion(text="rest", reason="it is late", confidence=0.9, cooldown_key="rest")
    return ProactiveSuggestionEvent(stream_id="s", content=content)


def told(events: list[Event]) -> Counter[tuple[str, str]]:
    """Count what was said of each channel."""
    return Counter(
        (event.event_type.removeprefix("output."), str(getattr(event.content, "channel", "-")))
        for event in events
        if event.event_type.startswith("output.")
    )


@pytest.mark.parametrize("event", [a_response(), a_suggestion()], ids=["an answer", "a suggestion"])
def test_both_routes_lead_to_every_channel_and_formatting_comes_first(team, receiver, event):
    events = team.send_through(event)

    once = {
        (step, channel): 1 for step in ("formatting.completed", "message.sent") for channel in ("mailbox", "webhook")
    }
    assert told(events) == once
    times = {event.event_type: event.timestamp for event in reversed(events)}
    assert times["output.formatting.completed"] < times["output.message.sent"]
    assert (Inside(team).take_replies("s"), len(receiver.got)) == ([event.content.text], 1)


def test_a_channel_that_is_down_is_tried_three_times_told_once_and_keeps_no_other_from_sending(team, receiver):
    receiver.statuses = [503]

    events = team.send_through(a_response(), timeout=20)

    assert told(events) == {
        ("formatting.completed", "mailbox"): 1,
        ("message.sent", "mailbox"): 1,
        ("formatting.completed", "webhook"): 1,
        ("message.failed", "webhook"): 1,
    }
    (failure,) = [event for event in events if isinstance(event, MessageFailedEvent)]
    assert (failure.content.error_type, "status 503" in failure.content.error) == ("ProviderUnavailable", True)
    assert (Inside(team).take_replies("s"), len(receiver.got), len(set(receiver.got))) == (["84"], 3, 1)
    assert team.dead_letters() == []


def test_a_channel_that_comes_back_has_the_message_once_and_is_told_of(team, receiver, monkeypatch):
    receiver.statuses = [503, 429, 204]
    shown = io.StringIO()
    monkeypatch.setattr(output, "open_channels", lambda append: (*open_channels(append), Terminal(shown)))

    events = team.send_through(a_response(), timeout=20)

    channels = ("mailbox", "webhook", "terminal")
    assert told(events) == {(step, each): 1 for each in channels for step in ("formatting.completed", "message.sent")}
    assert (len(receiver.got), len(set(receiver.got)), Inside(team).take_replies("s")) == (3, 1, ["84"])
    assert shown.getvalue() == "[s] 84\n"


def test_what_a_channel_delivered_is_told_while_another_is_tried_again(team, receiver):
    receiver.statuses = [503]
    team.publish(a_response())

    sent = team.expect("output.message.sent")
    before = len(receiver.got)
    team.expect("output.message.failed", within=20)

    assert isinstance(sent, MessageSentEvent)
    assert sent.content.channel == "mailbox"
    assert before < 3 == len(receiver.got)


def test_a_channel_that_had_the_message_is_not_asked_again_for_the_sake_of_another(team, receiver, monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(output, "open_channels", lambda append: (*open_channels(append), Terminal(closed)))

    events = team.send_through(a_response(), timeout=20)

    assert told(events)["message.failed", "terminal"] == told(events)["message.sent", "webhook"] == 1
    assert (len(receiver.got), Inside(team).take_replies("s")) == (1, ["84"])


def test_a_channel_that_refuses_is_asked_once_and_told(team, receiver):
    receiver.statuses = [404]

    events = team.send_through(a_response())

    assert told(events)["message.failed", "webhook"] == 1
    assert len(receiver.got) == 1


def test_a_receiver_that_is_down_for_long_is_left_alone_and_has_every_message_when_it_is_back(team, receiver):
    receiver.statuses = [503] * 5 + [204]

    for number in range(2):
        team.publish(a_response(str(number)))
    team.send_through(a_response("2"), timeout=20)

    delivered = told(team.published_events())
    assert "system.circuit.opened" in {event.event_type for event in team.published_events()}
    assert delivered["message.sent", "webhook"] + delivered["message.failed", "webhook"] == 3
    assert delivered["message.sent", "webhook"] >= 2
    assert delivered["message.sent", "mailbox"] == 3


def test_an_answer_that_names_a_channel_goes_there_and_into_the_mailbox(team, receiver):
    assert told(team.send_through(a_response(channel="terminal"))) == {
        ("formatting.completed", "mailbox"): 1,
        ("message.sent", "mailbox"): 1,
    }


def test_a_suggestion_for_a_conversation_that_is_over_is_dropped_and_counted(team, receiver):
    open_session("s", bus=team.bus)
    team.send_through(a_response())
    end_session("s", bus=team.bus)
    Inside(team).take_replies("s")

    events = team.send_through(a_suggestion())

    (drop,) = [event for event in events if isinstance(event, SuggestionDroppedEvent)]
    assert (drop.content.text, drop.content.reason) == ("rest", "the session has ended")
    assert told(events) == {("suggestion.dropped", "-"): 1}
    assert (Inside(team).take_replies("s"), len(receiver.got), Inside(team).counts()[DROPPED_SUGGESTIONS_COUNTER]) == (
        [],
        1,
        1,
    )


def test_an_answer_for_a_conversation_that_is_over_is_still_delivered(team):
    open_session("s", bus=team.bus)
    end_session("s", bus=team.bus)

    assert told(team.send_through(a_response()))["message.sent", "mailbox"] == 1


# Workers that die

# The first time that a message is delivered its worker dies: right after it was shown, or once that was recorded.
DYING = """
import os
from pathlib import Path
from petiole.workers.agents import output
from petiole.workers.agents.output import agent
from petiole.workers.channels import Terminal

def die_once(when):
    died = Path(when)
    if not died.exists():
        died.touch()
        os._exit(9)

send, told = Terminal.send, output.send_once

def send_and_die(self, stream_id, message_id, text):
    send(self, stream_id, message_id, text)
    if "early" in text:
        die_once("early")

def tell_and_die(event, channel, message_id, message):
    sent = told(event, channel, message_id, message)
    if "late" in message.text and channel.name == "terminal":
        die_once("late")
    return sent

Terminal.send, output.send_once = send_and_die, tell_and_die
"""


def test_a_worker_that_dies_after_it_sent_and_before_it_said_so_leaves_one_message(node, inside, eventually):
    node.module("dying", DYING)
    node.environment.update(PETIOLE_AGENTS="dying", PETIOLE_TERMINAL_CHANNEL="true", PETIOLE_VISIBILITY_TIMEOUT_S="2")
    publish = (
        "from events import FormattedResponse, ResponseReadyEvent as R; from tasks import publish;"
        "[publish(R(stream_id='s', content=FormattedResponse(text=f'it is {when}'))) for when in ('early', 'late')]"
    )

    for number in range(3):
        worker = node.worker(f"mortal-{number}")
        if number == 0:
            node.run(publish)
        if number < 2:
            worker.wait(timeout=30)

    ends = ("output.message.sent", "output.message.failed")
    eventually(lambda: sum(inside.topics().count(end) for end in ends) == 4, 30, node.logs)
    shown = [line for line in node.logs().splitlines() if "[s] it is" in line]
    assert len(shown) == 2, shown
    assert sorted(inside.take_replies("s")) == ["it is early", "it is late"]
    # Of the one whose worker died before anything was recorded nobody can know whether it was shown: that is told.
    (failure,) = inside.history("output.message.failed")
    content = MessageFailedEvent.model_validate(failure).content
    assert (content.channel, content.error_type) == ("terminal", "OperationOutcomeUnknown")
    assert inside.dead_letters() == []
