"""What every channel promises."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator

import pytest

from petiole.tasks import EventBus
from petiole.workers.channels import Mailbox, OutputChannel, Terminal, open_channels
from petiole.workers.state import team_state
from tests.contracts.channels.answers import served

Shown = Callable[[int], list[str]]
"""Reads what the user of stream `s` sees: so many messages at least."""


@pytest.fixture(params=["mailbox", "terminal", "webhook", "server-sent events"])
def way(request: pytest.FixtureRequest, bus: EventBus) -> Iterator[tuple[OutputChannel, Shown]]:
    """Give a channel, and how to see what its user sees."""
    mailbox = Mailbox(team_state(bus).outbound_messages.append)
    match request.param:
        case "mailbox":

            def taken(count: int) -> list[str]:
                looks = (team_state(bus).outbound_messages.take("s", 0.01) for _ in range(count + 1))
                return [reply.text for reply in looks if reply]

            yield mailbox, taken
        case "terminal":
            output = io.StringIO()
            yield Terminal(output), lambda _: [line.removeprefix("[s] ") for line in output.getvalue().splitlines()]
        case "webhook":
            receiver = request.getfixturevalue("receiver")
            yield (
                request.getfixturevalue("webhook"),
                lambda _: [json.loads(body)["data"]["text"] for _, body in receiver.got],
            )
        case _:
            with served(bus) as server:
                yield mailbox, lambda count: [said["text"] for _, said in server.read(count)]


def test_a_channel_shows_what_was_sent_in_its_order(way):
    channel, shown = way
    texts = ["Hello", "Grüße, 你好 👩\u200d🔬", "three"]

    for number, text in enumerate(texts):
        channel.send("s", f"m-{number}", channel.format(text))

    assert shown(3) == texts


def test_a_message_sent_again_under_its_id_is_what_the_channel_says(way):
    channel, shown = way

    for _ in range(2):
        channel.send("s", "m-1", channel.format("Hello"))
    channel.send("s", "m-2", channel.format("Goodbye"))

    expected = ["Hello", "Goodbye"] if channel.on_duplicate == "harmless" else ["Hello", "Hello", "Goodbye"]
    assert shown(len(expected)) == expected


def test_formatting_twice_is_formatting_once(way):
    channel, _ = way

    once = channel.format("two\nlines\t\x1b[2J")

    assert channel.format(once) == once


def test_channels_are_opened_where_they_are_asked_for(receiver, monkeypatch):
    monkeypatch.setenv("PETIOLE_TERMINAL_CHANNEL", "true")

    assert [channel.name for channel in open_channels(lambda *_: None)] == ["mailbox", "webhook", "terminal"]
