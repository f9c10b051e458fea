"""The ways by which answers reach their users."""

from __future__ import annotations

import io
import logging
import sys

import pytest
from celery.utils.log import LoggingProxy

from petiole.events.errors import ProviderUnavailable
from petiole.workers.channels import Mailbox, Terminal, open_channels


def shown(text: str, stream_id: str = "s-1") -> str:
    output = io.StringIO()
    Terminal(output).send(stream_id, "m-1", text)
    return output.getvalue()


def test_the_terminal_writes_one_line_for_each_message() -> None:
    assert shown("two\nlines\r\n") == "[s-1] two lines\n"


@pytest.mark.parametrize(
    "text", ["\x1b[2J", "\x1b]0;title\x07", "\x9b2J", "\x08\x7f", "\u202eabc", "\u2028", "a\ud800"]
)
def test_nothing_drives_the_terminal(text: str) -> None:
    line = shown(text, stream_id=text)

    assert line.endswith("\n")
    assert line[:-1].isprintable()


def test_the_terminal_keeps_what_people_write() -> None:
    assert shown("Grüße, 你好 👩\u200d🔬") == "[s-1] Grüße, 你好 👩\u200d🔬\n"


def test_the_terminal_writes_what_its_encoding_has() -> None:
    raw = io.BytesIO()
    output = io.TextIOWrapper(raw, encoding="ascii")

    Terminal(output).send("s-1", "m-1", "Grüße")

    assert raw.getvalue() == b"[s-1] Gr??e\n"


def test_the_terminal_writes_to_standard_output_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().send("s-1", "m-1", "hello")

    assert capsys.readouterr().out == "[s-1] hello\n"


def test_the_terminal_writes_where_celery_has_taken_standard_output(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stdout", LoggingProxy(logging.getLogger("celery.redirected")))

    Terminal().send("s-1", "m-1", "hello")

    assert caplog.messages == ["[s-1] hello"]


def test_a_closed_terminal_is_unavailable() -> None:
    output = io.StringIO()
    output.close()

    with pytest.raises(ProviderUnavailable, match="terminal"):
        Terminal(output).send("s-1", "m-1", "hello")


def test_the_mailbox_keeps_messages_as_they_are() -> None:
    kept: list[tuple[str, str, str]] = []
    mailbox = Mailbox(lambda stream_id, message_id, text: kept.append((stream_id, message_id, text)))

    mailbox.send("s-1", "m-1", mailbox.format("two\nlines"))

    assert kept == [("s-1", "m-1", "two\nlines")]


@pytest.mark.parametrize(
    ("setting", "names"), [("", ["mailbox"]), ("0", ["mailbox"]), ("true", ["mailbox", "terminal"])]
)
def test_the_terminal_is_opened_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, setting: str, names: list[str]
) -> None:
    monkeypatch.setenv("PETIOLE_TERMINAL_CHANNEL", setting)

    assert [channel.name for channel in open_channels(lambda *_: None)] == names
