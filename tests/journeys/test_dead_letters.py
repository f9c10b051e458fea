"""Dead letters looked at, mended, delivered again and discarded; by functions and by commands."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import redis
from click.testing import CliRunner

from petiole.events import Event, MessageEvent, TextMessageEvent
from petiole.events.dead_letter import DeadLetter
from petiole.events.errors import ToolFailed, UsageError
from petiole.tasks import Agent, Context, dead_letters
from petiole.tasks.broker.producer import open_producer
from petiole.tasks.dead_letters import DeadLetterQuery, RetentionResult
from petiole.tasks.dead_letters.replay import RESEND_AFTER
from petiole.tasks.dead_letters.replay_messages import build_replay, build_replay_start, send_replay
from petiole.tasks.settings import Settings
from petiole.tasks.testing import EventTestHarness
from petiole.workers.cli import dead_letters as commands
from petiole.workers.cli import petiole
from tests.support.errors import has_code

SIZE = 5_000 if os.environ.get("PETIOLE_FAULTS") == "full" else 300

noted: list[tuple[str, bool, str]] = []
broken: set[str] = set()


@pytest.fixture(autouse=True)
def nothing_heard() -> None:
    noted.clear()
    broken.clear()


@pytest.fixture
def shop(harness: EventTestHarness, a_message: Callable[..., Event]) -> EventTestHarness:
    """Give a harness whose only handler has failed for four messages, and is mended for those without an x."""
    agent = Agent("shop")

    @agent.on("input.*")
    def offer(event: TextMessageEvent, context: Context) -> MessageEvent | None:
        noted.append((event.content.text, context.is_replay, context.delivery_id))
        if event.content.text in broken or "all" in broken:
            raise ToolFailed("till", f"it does not take {event.content.text}")
        return event.caused(MessageEvent, event_type="message.offer")

    harness.add(agent)
    broken.add("all")
    for number in range(4):
        harness.send_through(a_message(f"{'x' if number % 2 else ''}{number}", stream_id=f"s{number % 2}"))
    broken.clear()
    broken.update({"x1", "x3"})
    noted.clear()
    assert len(harness.dead_letters()) == 4
    return harness


@pytest.fixture
def typed(shop: EventTestHarness, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Give what types a command at the harness."""
    monkeypatch.setattr(commands, "connected_app", lambda: shop.bus)
    monkeypatch.setattr(commands, "configured_agents", list)

    def type_(*arguments: str, keys: str = "") -> Any:
        return CliRunner().invoke(petiole, ["dead-letters", *arguments], input=keys)

    return type_


def settle(harness: EventTestHarness) -> None:
    """Wait until nothing is under way."""
    harness.send_through(MessageEvent(event_type="message.unheard", stream_id="nobody"))


def states(harness: EventTestHarness) -> dict[str, int]:
    return {str(state): count for state, count in harness.bus.stores.dead_letters.count_by_state().items()}


def replayed(harness: EventTestHarness, letters: DeadLetterQuery, **options: Any) -> dead_letters.DeadLetterReplay:
    done = dead_letters.replay(letters, bus=harness.bus, **options)
    settle(harness)
    return done


def said(harness: EventTestHarness, topic: str) -> list[Any]:
    return [event for event in harness.published_events() if event.event_type == topic]


def a_letter(letter_id: str = "a-letter", **fields: object) -> DeadLetter:
    return DeadLetter.model_validate(
        {
            "id": letter_id,
            "delivery_id": "a-delivery",
            "subscription": "shop.offer",
            "queue": "shop",
            "cause": "failed",
            "error_type": "RuntimeError",
            "error": "no",
            "traceback": "…",
            "fingerprint": "f00",
            "attempts": (),
            "at": datetime.now(UTC),
            "document": {"event_type": "input.message.received", "stream_id": "s"},
        }
        | fields
    )


def test_a_replayed_letter_is_resolved_or_has_failed_again_in_its_place(shop):
    done = replayed(shop, DeadLetterQuery(), wait=True)

    assert done.progress == dead_letters.Progress(resolved=2, failed_again=2)
    assert states(shop) == {"resolved": 2, "failed_again": 2}
    assert [(text, is_replay) for text, is_replay, _ in noted] == [("0", True), ("x1", True), ("2", True), ("x3", True)]
    assert len(said(shop, "message.offer")) == 2
    failed = list(dead_letters.find_dead_letters(bus=shop.bus))
    assert {kept.letter.delivery_id for kept in failed} == {delivery for text, _, delivery in noted if "x" in text}
    assert {(kept.state, kept.replays) for kept in failed} == {("failed_again", 1)}


def test_what_failed_again_can_be_replayed_again_and_what_was_resolved_cannot(shop):
    replayed(shop, DeadLetterQuery(), wait=True)
    broken.clear()

    done = replayed(shop, DeadLetterQuery(), wait=True)

    assert done.progress == dead_letters.Progress(resolved=2)
    assert states(shop) == {"resolved": 4}
    assert len({delivery for _, _, delivery in noted}) == 6
    resolved = next(dead_letters.find_dead_letters(DeadLetterQuery(states=("resolved",)), bus=shop.bus)).letter.id
    assert "nothing left to do" in str(replayed(shop, DeadLetterQuery(ids=(resolved,))).refused[0])


def test_each_replay_is_told_with_who_asked_for_it(shop):
    done = replayed(shop, DeadLetterQuery(stream="s0"), operator="ada")

    (request,) = said(shop, "dead_letters.replay.requested")
    told = said(shop, "dead_letters.letter.replayed")
    assert (request.event_id, request.content.letters, request.content.selection) == (done.id, 2, "stream=s0")
    assert {each.content.letter_id for each in told} == set(done.sent)
    assert {(each.content.operator, each.causation_id) for each in told} == {("ada", done.id)}


def test_a_canary_that_fails_again_leaves_the_rest_untouched(shop):
    done = replayed(shop, DeadLetterQuery(), canary=2)

    assert (len(done.sent), done.skipped, done.progress) == (2, 2, dead_letters.Progress(resolved=1, failed_again=1))
    assert states(shop) == {"resolved": 1, "failed_again": 1, "pending": 2}
    assert "1 failed again" in str(done.stopped)
    assert len(noted) == 2


def test_a_canary_without_an_outcome_leaves_the_rest_untouched_and_one_that_succeeds_does_not(shop):
    shop._worker.stop()
    waiting = dead_letters.replay(DeadLetterQuery(), canary=1, timeout=timedelta(seconds=0.05), bus=shop.bus)
    assert (waiting.skipped, waiting.progress) == (3, dead_letters.Progress(replaying=1))
    assert "does a worker run?" in str(waiting.stopped)


def test_a_canary_that_succeeds_lets_the_rest_go(shop):
    done = replayed(shop, DeadLetterQuery(stream="s0"), canary=1, wait=True)

    assert (done.stopped, done.skipped, done.progress) == (None, 0, dead_letters.Progress(resolved=2))


def test_letters_are_replayed_by_what_they_have_in_common(shop):
    fingerprint = shop.dead_letters()[0].fingerprint

    assert len(replayed(shop, DeadLetterQuery(cause="loop")).sent) == 0
    assert len(replayed(shop, DeadLetterQuery(subscription="shop.offer", stream="s1")).sent) == 2
    assert len(replayed(shop, DeadLetterQuery(fingerprint=fingerprint)).sent) == 4


def test_a_replay_that_was_begun_and_never_sent_is_begun_again_under_its_number(shop, monkeypatch):
    letter = shop.dead_letters()[0]
    start = build_replay_start(shop.bus, build_replay(letter, 1))
    assert shop.bus.stores.dead_letters.start_replays([start], "a dead operator", RESEND_AFTER) == ["started"]
    early = replayed(shop, DeadLetterQuery(ids=(letter.id,)))
    monkeypatch.setattr("petiole.tasks.dead_letters.replay.RESEND_AFTER", timedelta(0))

    later = replayed(shop, DeadLetterQuery(ids=(letter.id,)), wait=True)

    assert "being replayed" in str(early.refused[0])
    assert later.progress == dead_letters.Progress(resolved=1)
    assert [delivery for _, _, delivery in noted] == [start.delivery_id]
    assert dead_letters.get_dead_letter(letter.id, bus=shop.bus).replays == 1


def test_a_copy_of_a_replay_that_failed_again_does_not_resolve_it(shop):
    letter = shop.dead_letters()[1]
    replayed(shop, DeadLetterQuery(ids=(letter.id,)), wait=True)
    with open_producer(shop.bus, "a copy") as outlet:
        send_replay(shop.bus, build_replay(letter, 1), outlet)
    settle(shop)

    assert len(noted) == 1, "the inbox knows it"
    assert dead_letters.get_dead_letter(letter.id, bus=shop.bus).state == "failed_again"


def test_a_replay_keeps_to_its_rate(shop):
    began = time.monotonic()

    replayed(shop, DeadLetterQuery(), rate_hz=20)

    assert 0.15 <= time.monotonic() - began < 2


def test_a_letter_whose_subscription_is_gone_is_refused_and_says_what_to_do(shop):
    shop.bus.stores.directory.unregister("shop.offer")

    done = replayed(shop, DeadLetterQuery())

    assert (done.sent, len(done.refused)) == ([], 4)
    assert "start a worker that has it" in str(done.refused[0])
    assert states(shop) == {"pending": 4}


def test_a_publication_that_a_worker_could_not_do_is_replayed_as_one(shop, a_message):
    document = json.loads(a_message("published").model_dump_json())
    letter = a_letter(subscription="petiole.publish", queue="publish", document=document, cause="payload")
    shop.bus.stores.dead_letters.put(letter)

    done = replayed(shop, DeadLetterQuery(ids=(letter.id,)), wait=True)

    assert done.progress == dead_letters.Progress(resolved=1)
    settle(shop)
    assert [(text, is_replay) for text, is_replay, _ in noted] == [("published", False)]


def test_a_publication_that_cannot_be_done_again_has_failed_again_in_its_place(shop, a_message):
    document = json.loads(a_message().model_dump_json(exclude={"content"})) | {"dataref": "petiole:sha256:00ff"}
    letter = a_letter(subscription="petiole.publish", queue="publish", document=document, cause="payload")
    shop.bus.stores.dead_letters.put(letter)

    done = replayed(shop, DeadLetterQuery(ids=(letter.id,)), wait=True)

    assert done.progress == dead_letters.Progress(failed_again=1)
    assert states(shop) == {"pending": 4, "failed_again": 1}
    assert dead_letters.get_dead_letter(letter.id, bus=shop.bus).letter.error_type == "payload_missing"


def a_raw_message(event: Event) -> bytes:
    """Write a message as it lies in Redis."""
    body = base64.b64encode(json.dumps([[json.loads(event.model_dump_json())], {}, {}]).encode()).decode()
    message = {
        "body": body,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": "shop.offer", "id": "once-sent", "lang": "py", "petiole_consumer": "a-holder"},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": "a-tag",
            "delivery_info": {"exchange": "", "routing_key": "shop"},
            "priority": 4,
        },
    }
    return json.dumps(message).encode()


def test_the_message_of_an_unknown_task_goes_back_as_it_came(shop, a_message):
    raw = base64.b64encode(a_raw_message(a_message("raw")))
    shop.bus.stores.dead_letters.put(a_letter(cause="unknown_task", raw=raw, document=None))

    done = replayed(shop, DeadLetterQuery(ids=("a-letter",)), wait=True)

    assert done.progress == dead_letters.Progress(resolved=1)
    assert [(text, is_replay) for text, is_replay, _ in noted] == [("raw", True)]


@pytest.mark.parametrize("raw", [b"", b"\x80\x02", b"[1]", b'{"body": 1}', b"[" * 100_000])
def test_bytes_that_are_no_message_are_refused_and_replaced_by_an_event(shop, a_message, raw):
    shop.bus.stores.dead_letters.put(
        a_letter(cause="undecodable", subscription="", raw=base64.b64encode(raw), document=None)
    )
    refusal = replayed(shop, DeadLetterQuery(ids=("a-letter",))).refused[0]

    new = dead_letters.edit("a-letter", json.loads(a_message("meant").model_dump_json()), bus=shop.bus)

    assert "cannot be parsed as a message; give the event that was meant" in str(refusal)
    assert (new.raw, new.edited_from, new.subscription) == (None, "a-letter", "petiole.publish")
    assert replayed(shop, DeadLetterQuery(ids=(new.id,)), wait=True).progress == dead_letters.Progress(resolved=1)
    settle(shop)
    assert [text for text, _, _ in noted] == ["meant"]


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
    assert "another letter stands for it" in str(replayed(shop, DeadLetterQuery(ids=(old.id,))).refused[0])
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
    shop.bus.stores.dead_letters.put(a_letter(cause="unknown_type", document={"event_type": "input.mesage"}))
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
    [("{", "this is no JSON"), ("[]", "field '-'"), ('{"letter": {}}', r"field 'letter\.id'"), ("5", "line 2")],
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
        with pytest.raises(
            UsageError, check=has_code("unknown_dead_letter"), match="there is no dead letter 'nowhere'"
        ):
            refused()


# Retention


@pytest.fixture
def small() -> Iterator[EventTestHarness]:
    """Give a harness that keeps ten letters for ten days."""
    settings = Settings(max_dead_letters=10, dead_letter_retention_s=10 * 86_400)
    with EventTestHarness(settings=settings) as harness:
        yield harness


def fill(harness: EventTestHarness, count: int, *, first: int = 0, days_old: float = 0) -> None:
    for number in range(first, first + count):
        at = datetime.now(UTC) - timedelta(days=days_old, milliseconds=-number)
        harness.bus.stores.dead_letters.put(a_letter(f"letter-{number}", at=at))


def retained(harness: EventTestHarness) -> RetentionResult:
    done = dead_letters.apply_retention(harness.bus)
    assert done is not None
    return done


def alarms(harness: EventTestHarness) -> list[int]:
    return [event.content.parameters["dropping"] for event in said(harness, "error.dead_letters_dropped")]


def test_nothing_is_dropped_before_an_alarm_and_that_is_raised_once_a_day(small):
    fill(small, 7)
    assert dead_letters.apply_retention(small.app) == RetentionResult(count=7)
    fill(small, 1, first=7)

    assert retained(small).alarm == "near"
    assert dead_letters.apply_retention(small.app) == RetentionResult(count=8)
    fill(small, 4, first=8)
    dropping = dead_letters.apply_retention(small.app)

    assert dropping == RetentionResult(count=10, dropped=2, alarm="dropping")
    assert alarms(small) == [0, 2]
    assert [letter.id for letter in small.dead_letters()] == [f"letter-{number}" for number in range(2, 12)]
    (near, _) = said(small, "error.dead_letters_dropped")
    assert near.content.severity == "warning"
    assert near.content.parameters["count"] == 8
    assert "PETIOLE_MAX_DEAD_LETTERS" in near.content.message


def test_a_letter_that_grows_old_is_dropped_after_an_alarm(small):
    fill(small, 1, days_old=9.5)
    assert dead_letters.apply_retention(small.app) == RetentionResult(count=1, alarm="near")

    later = datetime.now(UTC) + timedelta(days=1)

    assert dead_letters.apply_retention(small.app, later) == RetentionResult(dropped=1, alarm="dropping")
    assert alarms(small) == [0, 1]


def test_what_somebody_is_done_with_goes_first_and_without_an_alarm(small):
    fill(small, 12)
    for number in range(8, 12):
        small.bus.stores.dead_letters.resolve(f"letter-{number}")

    assert retained(small).dropped == 2

    assert alarms(small) == [0], "eight are wanted, which is near"
    assert [letter.id for letter in small.dead_letters()] == [
        *(f"letter-{number}" for number in range(8)), "letter-10", "letter-11",
    ]  # fmt: skip


def test_one_worker_at_a_time_looks_after_retention(small):
    fill(small, 12)
    assert small.bus.stores.dead_letters.acquire_retention_lock("another", timedelta(minutes=1))

    assert dead_letters.apply_retention(small.app) is None

    assert len(small.dead_letters()) == 12


# Commands


def test_letters_are_listed_grouped_and_shown(typed, shop):
    letter = shop.dead_letters()[1]

    listed = typed("list")
    grouped = typed("list", "--group", "stream")
    shown = typed("show", letter.id)

    assert letter.id in listed.stdout
    assert "shop.offer: ToolFailed: till failed: it does not take x1" in listed.stdout
    assert "kept: 4 pending" in listed.stdout
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
    assert "these stay as they are: event_id" in unchanged.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("replay",), "say which letters"),
        (("replay", "an-id", "--all"), "one of these"),
        (("replay", "an-id", "--state", "pending"), "leave out --state"),
        (("replay", "--group", "colour=red"), "write one of cause, fingerprint, subscription, stream"),
        (("replay", "--group", "cause=loop", "--group", "cause=failed"), "no letter has both"),
        (("discard",), "say which letters"),
        (("edit", "an-id", "--file", "-", "--set", "a=b"), "either whole"),
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
        (("show", "nowhere"), "there is no dead letter 'nowhere'"),
        (("replay", "nowhere"), "there is no dead letter 'nowhere'"),
        (("edit", "nowhere", "--set", "a=b"), "there is no dead letter 'nowhere'"),
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


def test_letters_go_through_a_pipe_and_come_back(typed, shop):
    exported = typed("export", "-")
    typed("discard", "--all", "--yes")

    imported = typed("import", "-", keys=exported.stdout)
    again = json.loads(typed("import", "-", "--json", keys=exported.stdout).stdout)

    assert "imported 4; known before: 0" in imported.stdout
    assert again == {"imported": 0, "known": 4}
    assert states(shop) == {"pending": 4}


# Real workers


AGENT = """
import os
import redis
from petiole.events import TextMessageEvent
from petiole.events.errors import ToolFailed
from petiole.tasks import Agent

state_url = os.environ.get("PETIOLE_STATE_URL", os.environ["PETIOLE_BROKER_URL"])
seen = redis.Redis.from_url(state_url, decode_responses=True)
shop = Agent("shop")

@shop.on("input.message.received")
def sell(event: TextMessageEvent) -> None:
    seen.hincrby("runs", event.content.text, 1)
    if seen.get("mended") != "all" and int(event.content.text) % 2:
        raise ToolFailed("till", "it is broken")

@shop.on("input.message.received", ordered=True)
def count(event: TextMessageEvent) -> None:
    if not seen.set("busy:" + event.stream_id, "1", nx=True):
        seen.rpush("overlaps", event.stream_id)
    seen.rpush("counted", event.content.text)
    seen.delete("busy:" + event.stream_id)
    if seen.get("mended") != "all" and event.content.text == "7":
        raise ToolFailed("till", "it is broken")
"""


def lines_of(size: int, subscription: str = "shop.sell") -> str:
    """Write as many letters as if their handler had failed, as an export has them."""
    lines = []
    for number in range(size):
        event = TextMessageEvent.model_validate({"stream_id": f"s{number % 7}", "content": {"text": str(number)}})
        at = datetime.now(UTC) + timedelta(milliseconds=number)
        letter = a_letter(
            str(uuid4()), subscription=subscription, document=json.loads(event.model_dump_json()), at=at,
            fingerprint=f"f{number % 10}", traceback="line\n" * 30,
        )  # fmt: skip
        lines.append(json.dumps({"letter": json.loads(letter.model_dump_json()), "state": "pending"}))
    return "\n".join(lines) + "\n"


def a_raw_line(agent: str) -> str:
    """Write a letter of bytes that are a message, as an export has it."""
    event = TextMessageEvent.model_validate({"stream_id": "s", "content": {"text": "raw"}})
    raw = a_raw_message(event).replace(b"shop.offer", f"{agent}.sell".encode())
    letter = a_letter(str(uuid4()), queue=agent, cause="unknown_task", raw=base64.b64encode(raw), document=None)
    return json.dumps({"letter": json.loads(letter.model_dump_json()), "state": "pending"}) + "\n"


def command(node, *arguments: str) -> subprocess.Popen[str]:
    """Type a command that prints JSON, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "petiole.workers.cli", "dead-letters", *arguments, "--json"],
        env=node.environment,
        cwd=node.home,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result_of(process: subprocess.Popen[str], *, keys: str = "", code: int = 0) -> Any:
    out, errors = process.communicate(keys, timeout=100)
    assert process.returncode == code, out + errors
    return json.loads(out)


def tally_of(client: redis.Redis) -> dict[str, int]:
    return dict(Counter(map(str, client.hvals("petiole:dead_letters:states"))))


def runs_of(client: redis.Redis) -> list[int]:
    return [int(runs) for runs in client.hvals("runs")]


@pytest.fixture
def client(clean_broker_url):
    return redis.Redis.from_url(clean_broker_url, decode_responses=True)


@pytest.fixture
def till(node):
    """Give a system of two workers, whose handler fails for every other message."""
    node.module("agents_of_ours", AGENT)
    node.environment["PETIOLE_AGENTS"] = "agents_of_ours"
    for name in ("one", "two"):
        node.worker(name)
    return node


@pytest.mark.timeout(240)
def test_a_canary_stops_a_batch_and_a_replay_at_a_rate_accounts_for_every_letter(till, client):
    assert result_of(command(till, "import", "-"), keys=lines_of(SIZE)) == {"imported": SIZE, "known": 0}

    stopped = result_of(command(till, "replay", "--all", "--canary", "10"), code=1)

    assert (len(stopped["sent"]), stopped["untouched"]) == (10, SIZE - 10)
    assert stopped["tally"] == {"resolved": 5, "failed_again": 5, "replaying": 0}
    assert tally_of(client) == {"resolved": 5, "failed_again": 5, "pending": SIZE - 10}
    assert sum(runs_of(client)) == 10

    went = result_of(command(till, "replay", "--all", "--rate", "200", "--wait", "--timeout", "90"))

    assert len(went["sent"]) == SIZE - 5
    assert went["tally"] == {"resolved": SIZE // 2 - 5, "failed_again": SIZE // 2, "replaying": 0}
    assert tally_of(client) == {"resolved": SIZE // 2, "failed_again": SIZE // 2}
    told = Counter(json.loads(fields["event"])["event_type"] for _, fields in client.xrange("petiole:history"))
    assert told["dead_letters.letter.replayed"] == SIZE + 5, "one row of the audit for each replay"


@pytest.mark.timeout(120)
def test_two_operators_who_replay_at_once_replay_each_letter_once(till, client):
    client.set("mended", "all")
    result_of(command(till, "import", "-"), keys=lines_of(SIZE - 1) + a_raw_line("shop"))

    operators = [command(till, "replay", "--all", "--wait", "--operator", name) for name in ("ada", "bob")]
    ada, bob = (result_of(operator)["sent"] for operator in operators)

    assert not set(ada) & set(bob)
    assert len(ada) + len(bob) == SIZE
    assert tally_of(client) == {"resolved": SIZE}
    assert runs_of(client) == [1] * SIZE


@pytest.mark.long
@pytest.mark.timeout(120)
def test_an_operator_killed_at_any_moment_leaves_no_letter_half_replayed(till, client, eventually):
    client.set("mended", "all")
    result_of(command(till, "import", "-"), keys=lines_of(300))
    for _ in range(3):
        sent = client.hlen("petiole:dead_letters:replays")
        killed = command(till, "replay", "--all", "--rate", "400")
        eventually(lambda sent=sent: client.hlen("petiole:dead_letters:replays") > sent, 30)
        killed.send_signal(signal.SIGKILL)
        killed.communicate(timeout=10)

    result_of(command(till, "replay", "--all", "--wait"))

    eventually(lambda: tally_of(client) == {"resolved": 300}, 30, lambda: tally_of(client))
    assert runs_of(client) == [1] * 300


@pytest.mark.timeout(120)
def test_an_ordered_delivery_is_replayed_in_its_turn(till, client, eventually):
    till.run(
        "from events import TextContent, TextMessageEvent\nfrom tasks import publish_many\n"
        "publish_many([TextMessageEvent(stream_id='s', content=TextContent(text=str(n))) for n in range(20)])"
    )
    eventually(lambda: client.llen("counted") == 20, 30, till.logs)
    kept = [json.loads(letter) for letter in client.hvals("petiole:dead_letters")]
    (letter_id,) = (each["id"] for each in kept if each["subscription"] == "shop.count")
    client.set("mended", "all")

    done = result_of(command(till, "replay", letter_id, "--wait"))

    assert done["tally"] == {"resolved": 1, "failed_again": 0, "replaying": 0}
    assert client.lrange("counted", -1, -1) == ["7"]
    assert client.lrange("overlaps", 0, -1) == []
    eventually(
        lambda: client.keys("petiole:message_groups:*") == [], 10, lambda: client.keys("petiole:message_groups:*")
    )


@pytest.mark.timeout(180)
@pytest.mark.long
def test_letters_are_replayed_on_rabbitmq_too(node, client, clean_broker_url, rabbit_url):
    client.set("mended", "all")
    node.module(
        "agents_of_ours", AGENT.replace(", ordered=True", "").replace('Agent("shop")', 'Agent("shop-of-letters")')
    )
    node.environment["PETIOLE_AGENTS"] = "agents_of_ours"
    node.environment.update({"PETIOLE_BROKER_URL": rabbit_url, "PETIOLE_STATE_URL": clean_broker_url})
    node.worker("one", "-Q", "shop-of-letters")
    letters = (
        lines_of(20)
        .replace("shop.sell", "shop-of-letters.sell")
        .replace('"queue": "shop"', '"queue": "shop-of-letters"')
    )
    result_of(command(node, "import", "-"), keys=letters + a_raw_line("shop-of-letters"))

    done = result_of(command(node, "replay", "--all", "--wait"))

    assert done["tally"] == {"resolved": 21, "failed_again": 0, "replaying": 0}, node.logs()[-2_000:]
    assert runs_of(client) == [1] * 21


def test_five_thousand_letters_are_grouped_within_two_seconds(node, client):
    result_of(command(node, "import", "-"), keys=lines_of(5_000))

    took, groups = json.loads(
        node.run("""
import json, time
from petiole.tasks import dead_letters
began = time.perf_counter()
groups = dead_letters.groups("fingerprint")
print(json.dumps([time.perf_counter() - began, [group.count for group in groups]]))
""")
    )

    assert groups == [500] * 10
    assert took < 2
