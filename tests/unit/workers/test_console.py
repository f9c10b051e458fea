"""How events look: trees of causes, lines, and what may not reach a terminal."""

from __future__ import annotations

import io
import logging
from unittest.mock import patch

import click
import pytest
from click.testing import CliRunner
from rich.console import Console
from rich.text import Text

from petiole.events.errors import UsageError
from petiole.tasks.stores.history import RecordedEvent
from petiole.workers.cli import Commands
from petiole.workers.cli._console import open_console, render_event_line, render_flow_line, render_table, render_tree
from petiole.workers.observability.flow_tree import (
    build_tree_rows,
    group_by_flow,
    publisher_name,
    shorten,
    summarize_content,
)
from petiole.workers.observability.logging import build_formatter
from petiole.workers.observability.printable import replace_unprintable


def test_events_stand_below_what_caused_them_in_the_order_they_were_recorded():
    recorded = [an_event("a"), an_event("b", "a"), an_event("c", "a"), an_event("d", "b")]

    assert places(recorded) == [("a", 0), ("b", 1), ("d", 2), ("c", 1)]


def test_an_event_whose_cause_is_not_at_hand_is_a_root():
    recorded = [an_event("b", "gone"), an_event("c", "b")]

    assert places(recorded) == [("b", 0), ("c", 1)]


def test_many_roots_stand_one_after_the_other():
    recorded = [an_event("a"), an_event("b"), an_event("c", "a")]

    assert places(recorded) == [("a", 0), ("c", 1), ("b", 0)]


@pytest.mark.parametrize("causes", [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "c", "b": "a", "c": "b"}])
def test_events_that_cause_each_other_in_a_circle_are_each_shown_once(causes):
    recorded = [an_event(event_id, cause) for event_id, cause in causes.items()]

    shown = [event_id for event_id, _ in places(recorded)]

    assert sorted(shown) == sorted(causes)
    assert shown[0] == "a"


def test_a_circle_below_a_root_hides_nothing():
    recorded = [an_event("root"), an_event("a", "b"), an_event("b", "a"), an_event("leaf", "b")]

    assert [event_id for event_id, _ in places(recorded)] == ["root", "a", "b", "leaf"]


def test_a_chain_of_causes_may_be_longer_than_the_stack_of_python():
    recorded = [an_event(str(place), str(place - 1)) for place in range(5_000)]

    assert build_tree_rows(recorded)[-1].depth == 4_999


def test_no_events_are_no_tree():
    assert build_tree_rows([]) == []


def test_times_are_counted_from_the_first_event_recorded():
    recorded = [an_event("a", at_ms=1_000), an_event("b", "a", at_ms=1_007), an_event("c", at_ms=3_500)]

    assert [row.offset_ms for row in build_tree_rows(recorded)] == [0, 7, 2_500]


def test_a_tree_is_drawn_with_topics_speakers_and_times():
    recorded = [
        an_event("a", topic="input.message.received", user="ada"),
        an_event("b", "a", topic="memory.context.assembled", path=["memory"], at_ms=1_004),
        an_event("c", "b", topic="llm.response.generated", path=["memory", "llm"], at_ms=2_010),
        an_event("d", "a", topic="error.reported", path=["tools"], at_ms=1_005),
    ]

    assert drawn(render_tree(recorded)) == [
        "input.message.received                               ada          0 ms",
        "├─ memory.context.assembled                          memory      +4 ms",
        "│  └─ llm.response.generated                         llm     +1,010 ms",
        "└─ error.reported                                    tools       +5 ms",
    ]


def test_a_tree_can_be_drawn_in_ascii():
    recorded = [an_event("a"), an_event("b", "a"), an_event("c", "b"), an_event("d", "a")]

    lines = drawn(render_tree(recorded), encoding="ascii")

    assert [each.split(" ")[0] for each in lines] == ["topic.of.it", "|-", "|", "`-"]
    assert "".join(lines).isascii()


def test_a_tree_of_ten_levels_is_not_cut_in_a_terminal_of_80_columns():
    recorded = [an_event(str(place), str(place - 1), topic="output.formatting.completed") for place in range(10)]

    lines = drawn(render_tree(recorded), width=80)

    assert len(lines) == 10
    assert all("output.formatting.completed " in each and each.endswith("0 ms") for each in lines)


def test_a_deep_tree_fits_the_width():
    recorded = [an_event(str(place), str(place - 1)) for place in range(60)]

    assert max(len(each) for each in drawn(render_tree(recorded), width=100)) <= 100


def test_the_last_agent_on_the_way_to_an_event_said_it():
    event = an_event("a", topic="custom.order.placed", path=["orchestrator", "shop"])

    assert publisher_name(event.document) == "shop"


def test_what_no_agent_said_is_said_by_its_user_or_its_source():
    assert publisher_name(an_event("a", user="ada").document) == "ada"
    assert publisher_name(an_event("a").document) == "a-source"


def test_flows_are_divided_by_correlation_id():
    recorded = [an_event("a", flow="1"), an_event("b", flow="2"), an_event("c", flow="1")]

    assert {key: ids(each) for key, each in group_by_flow(recorded).items()} == {"1": ["a", "c"], "2": ["b"]}


def test_an_event_is_told_by_its_text_or_by_its_values():
    assert summarize_content({"content": {"text": "Hello", "channel": "terminal"}}) == "Hello"
    assert summarize_content({"content": {"tool": "clock", "ok": True, "error": None, "data": {"value": 7}}}) == (
        'tool=clock  ok=true  data={"value": 7}'
    )


def test_a_long_text_is_cut_and_shows_it():
    assert shorten("a" * 100, 10) == "aaaaaaaaa…"
    assert shorten("a" * 10, 10) == "a" * 10


@pytest.mark.parametrize("hostile", ["\x1b[2J", "\x07", "a\nb", "a\rb", "\u202eabc", "\u2028", "\x9b31m", "\ud800"])
def test_nothing_that_drives_a_terminal_is_shown(hostile):
    shown = replace_unprintable(hostile)

    assert shown.isprintable()
    assert len(shown) == len(hostile)


def test_a_hostile_event_stays_one_line():
    event = an_event("a", stream="s\x1b[2J\n", user="\x1b]0;title\x07", content={"text": "one\ntwo\x1b[31m"})

    lines = drawn(render_event_line(event), width=300)

    assert len(lines) == 1
    assert "\x1b" not in lines[0]


def test_an_event_under_way_is_a_line_with_its_time():
    event = an_event("a", topic="llm.response.generated", path=["llm"], at_ms=1_012)

    assert drawn(render_flow_line(event, 1_000)) == ["    +12 ms  llm.response.generated                llm"]


def test_markup_in_a_tree_is_text():
    assert "[red]x :smile:" in drawn(render_tree([an_event("a", user="[red]x :smile:")]))[0]


def test_markup_in_a_table_is_text():
    assert drawn(render_table(("name", "count"), [("[red]x", 3)], numbers=("count",))) == [
        "name     count",
        "[red]x       3",
    ]


def an_event(event_id, cause=None, *, topic="topic.of.it", at_ms=1_000, flow="f", **named):
    document = {
        "event_id": event_id,
        "event_type": topic,
        "stream_id": named.get("stream", "a-stream"),
        "causation_id": cause,
        "correlation_id": flow,
        "content": named.get("content", {}),
        "context": {"source": "a-source", "user_id": named.get("user")},
        "path": named.get("path", []),
    }
    return RecordedEvent(f"{at_ms}-0", document)


def places(recorded):
    return [(row.recorded.document["event_id"], row.depth) for row in build_tree_rows(recorded)]


def ids(recorded):
    return [each.document["event_id"] for each in recorded]


def drawn(what, width=100, encoding="utf-8"):
    file = io.TextIOWrapper(io.BytesIO(), encoding)
    Console(file=file, width=width, color_system=None, highlight=False, emoji=False).print(what)
    file.seek(0)
    return [each.rstrip() for each in file.read().splitlines()]


HOSTILE = "x\x1b]0;owned\x07\x9b2J\u202ey"


def test_nothing_that_is_printed_controls_a_terminal(capsys):
    console = open_console()
    console.print(HOSTILE, soft_wrap=True)
    console.print(f"one\n{HOSTILE}", style="dim", soft_wrap=True)
    console.print(Text(HOSTILE, style="red"), soft_wrap=True)

    printed = capsys.readouterr().out
    assert printed.count("owned") == 3
    assert all(line.isprintable() for line in printed.split("\n"))
    assert "one\n" in printed


def test_no_error_of_a_command_controls_a_terminal():
    @click.group(cls=Commands)
    def commands() -> None:
        pass

    for name, error in (("click", click.ClickException(HOSTILE)), ("usage", UsageError(HOSTILE))):

        def fail(error: Exception = error) -> None:
            raise error

        with patch.object(Commands, "get_command", lambda *_, fail=fail: click.Command("fail", callback=fail)):
            ended = CliRunner().invoke(commands, [name])
        assert (ended.exit_code, "owned" in ended.output) == (1, True)
        assert all(line.isprintable() for line in ended.output.split("\n"))


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_no_log_line_controls_a_terminal(log_format):
    error = ValueError(HOSTILE)
    record = logging.LogRecord("x", logging.ERROR, "", 1, HOSTILE, (), (ValueError, error, None))
    record.stream_id = HOSTILE

    line = build_formatter(log_format, colorize=False).format(record)

    assert line.count("owned") == 3
    assert all(part.isprintable() for part in line.split("\n"))
