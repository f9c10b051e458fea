"""Dead letters mended, discarded, exported and imported."""

from __future__ import annotations

import json

import pytest

from petiole.events.errors import UsageError
from petiole.tasks import dead_letters
from petiole.tasks.dead_letters import DeadLetterQuery
from tests.journeys.dead_letters.shop import a_letter, noted, replayed, said, states
from tests.support.errors import has_code
from tests.support.inside import Inside


def test_an_edited_letter_stands_for_the_old_one_under_an_id_of_its_own(shop):
    old = shop.dead_letters()[1]
    event = json.loads(json.dumps(old.document))
    event["content"]["text"] = "without"

    new = dead_letters.edit(old.id, event, operator="ada", bus=shop.bus)
    with pytest.raises(UsageError, check=has_code("cannot_edit"), match="edited_from"):
        dead_letters.edit(old.id, event, bus=shop.bus)

    assert (new.edited_from, new.document) == (old.id, event)
    assert states(shop) == {"pending": 4, "replaced": 1}
    assert new.id in [kept.letter.id for kept in dead_letters.find_dead_letters(bus=shop.bus)]
    assert "replaced by another letter" in str(replayed(shop, DeadLetterQuery(ids=(old.id,))).refused[0])
    assert replayed(shop, DeadLetterQuery(ids=(new.id,)), wait=True).progress == dead_letters.Progress(resolved=1)
    assert [text for text, _, _ in noted] == ["without"]
    (told,) = said(shop, "dead_letters.letter.edited")
    assert (told.content.edited_to, told.content.fields, told.content.operator) == (new.id, ("content.text",), "ada")


@pytest.mark.parametrize("field", ["event_id", "stream_id", "correlation_id", "causation_id", "event_type"])
def test_what_an_event_is_cannot_be_edited(shop, field):
    letter = shop.dead_letters()[0]
    event = json.loads(json.dumps(letter.document)) | {field: "0192f0c1-7a5e-7cc3-98c8-3f1d2b6a9e10"}

    with pytest.raises(
        UsageError, check=has_code("cannot_edit"), match=f"field '{field}': tells which event it is; leave it as it was"
    ):
        dead_letters.edit(letter.id, event, bus=shop.bus)

    assert states(shop) == {"pending": 4}


def test_an_event_that_is_none_is_refused_by_name_of_the_field(shop):
    letter = shop.dead_letters()[0]
    event = json.loads(json.dumps(letter.document)) | {"content": {"text": 5}}

    with pytest.raises(UsageError, check=has_code("cannot_edit"), match=r"field 'content\.text'"):
        dead_letters.edit(letter.id, event, bus=shop.bus)


def test_an_event_that_could_not_be_read_may_be_given_another_type_and_another_reader(shop, a_message):
    Inside(shop).keep_dead_letter(a_letter(cause="unknown_type", document={"event_type": "input.mesage"}))
    event = json.loads(a_message("mended").model_dump_json())

    with pytest.raises(UsageError, check=has_code("unknown_subscription")):
        dead_letters.edit("a-letter", event, subscription="nobody.at-all", bus=shop.bus)
    new = dead_letters.edit("a-letter", event, subscription="shop.offer", bus=shop.bus)

    assert replayed(shop, DeadLetterQuery(ids=(new.id,)), wait=True).progress == dead_letters.Progress(resolved=1)


def test_discarded_letters_are_gone_and_told(shop):
    assert dead_letters.discard(DeadLetterQuery(stream="s0"), operator="ada", bus=shop.bus) == 2

    assert states(shop) == {"pending": 2}
    told = said(shop, "dead_letters.letter.discarded")
    assert {(each.content.subscription, each.content.cause, each.content.operator) for each in told} == {
        ("shop.offer", shop.dead_letters()[0].cause, "ada")
    }


def test_an_import_reads_no_line_that_is_longer_than_any_letter(shop, tmp_path, monkeypatch):
    monkeypatch.setattr("petiole.tasks.dead_letters.files.MAX_LINE_LENGTH", 1_000)
    file = tmp_path / "letters.jsonl"
    file.write_text("[" * 1_001)

    with file.open() as lines, pytest.raises(UsageError, match="more than 1,000 characters"):
        dead_letters.import_from(lines, bus=shop.bus)


def test_an_export_can_be_imported_once(shop, tmp_path):
    replayed(shop, DeadLetterQuery(), wait=True)
    file = tmp_path / "letters.jsonl"
    with file.open("w") as out:
        assert dead_letters.export_to(out, DeadLetterQuery(states=dead_letters.DEAD_LETTER_STATES), bus=shop.bus) == 4
    before = list(dead_letters.find_dead_letters(DeadLetterQuery(states=dead_letters.DEAD_LETTER_STATES), bus=shop.bus))
    dead_letters.discard(DeadLetterQuery(states=("resolved",)), bus=shop.bus)

    with file.open() as lines:
        first = dead_letters.import_from(lines, bus=shop.bus)
    with file.open() as lines:
        second = dead_letters.import_from(lines, bus=shop.bus)

    assert (first.imported, first.known, second.imported, second.known) == (2, 2, 0, 4)
    found = list(dead_letters.find_dead_letters(DeadLetterQuery(states=dead_letters.DEAD_LETTER_STATES), bus=shop.bus))
    assert sorted(found, key=lambda kept: kept.letter.at) == sorted(before, key=lambda kept: kept.letter.at)


@pytest.mark.parametrize(
    ("line", "named"),
    [("{", "invalid JSON"), ("[]", "field '-'"), ('{"letter": {}}', r"field 'letter\.id'"), ("5", "line 2")],
)
def test_a_line_that_is_no_letter_is_named_and_those_before_it_are_kept(harness, line, named):
    good = json.dumps({"letter": json.loads(a_letter().model_dump_json()), "state": "replaying", "replays": 3})

    with pytest.raises(UsageError, check=has_code("invalid_dead_letter"), match=named):
        dead_letters.import_from([good, line], bus=harness.bus)

    (kept,) = dead_letters.find_dead_letters(bus=harness.bus)
    assert (kept.state, kept.letter.id) == ("pending", "a-letter")


def test_a_letter_that_is_not_kept_is_refused_by_name(shop):
    for refused in (
        lambda: dead_letters.get_dead_letter("nowhere", bus=shop.bus),
        lambda: dead_letters.replay(DeadLetterQuery(ids=("nowhere",)), bus=shop.bus),
        lambda: dead_letters.discard(DeadLetterQuery(ids=("nowhere",)), bus=shop.bus),
        lambda: dead_letters.edit("nowhere", {}, bus=shop.bus),
    ):
        with pytest.raises(UsageError, check=has_code("unknown_dead_letter"), match="no dead letter 'nowhere' exists"):
            refused()
