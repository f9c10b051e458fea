"""Dead letters at the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from petiole.tasks.testing import EventTestHarness
from tests.journeys.dead_letters.shop import a_letter, states
from tests.support.apps import command_line
from tests.support.inside import Inside


@pytest.fixture
def typed(shop: EventTestHarness, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Give what types a command at the harness."""
    return partial(command_line(shop.bus, monkeypatch), "dead-letters")


def test_letters_are_listed_grouped_and_shown(typed, shop):
    letter = shop.dead_letters()[1]

    listed = typed("list")
    grouped = typed("list", "--group", "stream")
    shown = typed("show", letter.id)

    assert letter.id in listed.stdout
    assert "shop.offer: ToolFailed: till failed: it does not take x1" in listed.stdout
    assert "stored: 4 pending" in listed.stdout
    assert "s0" in grouped.stdout
    assert "ToolFailed" in shown.stdout
    assert "raise ToolFailed" in shown.stdout
    assert '"text": "x1"' in shown.stdout
    assert {each["id"] for each in json.loads(typed("list", "--json").stdout)} == {
        each.id for each in shop.dead_letters()
    }
    assert [group["letters"] for group in json.loads(typed("list", "--group", "cause", "--json").stdout)] == [4]
    assert json.loads(typed("show", letter.id, "--json").stdout)["state"] == "pending"


def test_a_canary_stops_the_command_with_an_exit_code(typed):
    planned = json.loads(typed("replay", "--all", "--dry-run", "--json").stdout)
    stopped = typed("replay", "--all", "--canary", "2")
    done = json.loads(typed("replay", "--group", "stream=s0", "--rate", "100", "--wait", "--json").stdout)

    assert planned == {"would_send": {"shop.offer": 4}, "refused": []}
    assert stopped.exit_code == 1
    assert "stopped: of 2 canaries with an outcome, 1 failed again; 2 left untouched" in stopped.stdout
    assert (done["tally"], len(done["sent"])) == ({"resolved": 1, "failed_again": 0, "replaying": 0}, 1)


def test_a_letter_is_edited_by_places_by_file_and_in_an_editor(typed, shop, monkeypatch, tmp_path):
    one, two, three, _ = shop.dead_letters()
    file = tmp_path / "event.json"
    file.write_text(json.dumps(two.document).replace("x1", "by file"))
    editor = tmp_path / "editor.py"
    editor.write_text(
        "import sys, pathlib\np = pathlib.Path(sys.argv[1])\np.write_text(p.read_text().replace('2', '2!'))\n"
    )

    by_place = json.loads(typed("edit", one.id, "--set", "content.text=by place", "--json").stdout)
    by_file = json.loads(typed("edit", two.id, "--file", str(file), "--json").stdout)
    monkeypatch.setenv("EDITOR", "true")
    unchanged = typed("edit", three.id)

    assert [each["document"]["content"]["text"] for each in (by_place, by_file)] == ["by place", "by file"]
    assert by_place["edited_from"] == one.id
    assert unchanged.exit_code == 1
    assert "nothing was changed" in unchanged.stderr
    assert "these fields cannot be changed: event_id" in unchanged.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("replay",), "select letters"),
        (("replay", "an-id", "--all"), "use one of these"),
        (("replay", "an-id", "--state", "pending"), "leave out --state"),
        (("replay", "--group", "colour=red"), "write one of cause, fingerprint, subscription, stream"),
        (("replay", "--group", "cause=loop", "--group", "cause=failed"), "no letter has both"),
        (("discard",), "select letters"),
        (("edit", "an-id", "--file", "-", "--set", "a=b"), "either --file"),
    ],
)
def test_what_is_typed_wrongly_is_refused_before_anything_is_reached(typed, shop, arguments, reason):
    refused = typed(*arguments)

    assert refused.exit_code == 2
    assert reason in refused.stderr
    assert states(shop) == {"pending": 4}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("show", "nowhere"), "no dead letter 'nowhere' exists"),
        (("replay", "nowhere"), "no dead letter 'nowhere' exists"),
        (("edit", "nowhere", "--set", "a=b"), "no dead letter 'nowhere' exists"),
    ],
)
def test_what_is_not_kept_is_said_in_one_line(typed, arguments, reason):
    refused = typed(*arguments)

    assert (refused.exit_code, refused.stdout) == (1, "")
    assert reason in refused.stderr


def test_discarding_asks_and_says_how_many(typed, shop):
    declined = typed("discard", "--all", keys="n\n")
    assert (declined.exit_code, states(shop)) == (1, {"pending": 4})
    assert "discard 4 dead letters (all)?" in declined.stderr

    assert "discarded 1" in typed("discard", shop.dead_letters()[0].id, keys="y\n").stdout
    assert json.loads(typed("discard", "--all", "--yes", "--json").stdout) == {"discarded": 3}
    assert states(shop) == {}


def test_an_export_controls_no_terminal_and_comes_back_whole(typed, shop):
    Inside(shop).keep_dead_letter(a_letter("hostile", error="x\x1b]0;owned\x07\x9b2J\u202e"))

    exported = typed("export", "-").stdout
    typed("discard", "--all", "--yes")
    typed("import", "-", keys=exported)

    assert all(line.isprintable() for line in exported.split("\n"))
    assert exported.isascii()
    assert "x\x1b]0;owned\x07\x9b2J\u202e" in [letter.error for letter in shop.dead_letters()]


def test_letters_go_through_a_pipe_and_come_back(typed, shop):
    exported = typed("export", "-")
    typed("discard", "--all", "--yes")

    imported = typed("import", "-", keys=exported.stdout)
    again = json.loads(typed("import", "-", "--json", keys=exported.stdout).stdout)

    assert "imported 4; existed already: 0" in imported.stdout
    assert again == {"imported": 0, "known": 4}
    assert states(shop) == {"pending": 4}
