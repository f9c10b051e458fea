"""Dead letters delivered again: once each, at a rate, by canaries, and with an outcome."""

from __future__ import annotations

import base64
import json
import time
from datetime import timedelta

import pytest

from petiole.tasks import dead_letters
from petiole.tasks.dead_letters import DeadLetterQuery
from tests.journeys.dead_letters.shop import a_letter, broken, noted, replayed, said, settle, states
from tests.support.apps import replay_again_at_once
from tests.support.inside import Inside, a_raw_message, begin_replay, send_first_replay_again, stop_worker


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
    stop_worker(shop)
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
    delivery_id = begin_replay(shop.bus, letter)
    early = replayed(shop, DeadLetterQuery(ids=(letter.id,)))
    replay_again_at_once(monkeypatch)

    later = replayed(shop, DeadLetterQuery(ids=(letter.id,)), wait=True)

    assert "being replayed" in str(early.refused[0])
    assert later.progress == dead_letters.Progress(resolved=1)
    assert [delivery for _, _, delivery in noted] == [delivery_id]
    assert dead_letters.get_dead_letter(letter.id, bus=shop.bus).replays == 1


def test_a_copy_of_a_replay_that_failed_again_does_not_resolve_it(shop):
    letter = shop.dead_letters()[1]
    replayed(shop, DeadLetterQuery(ids=(letter.id,)), wait=True)
    send_first_replay_again(shop.bus, letter)
    settle(shop)

    assert len(noted) == 1, "the inbox knows it"
    assert dead_letters.get_dead_letter(letter.id, bus=shop.bus).state == "failed_again"


def test_a_replay_keeps_to_its_rate(shop):
    began = time.monotonic()

    replayed(shop, DeadLetterQuery(), rate_hz=20)

    assert time.monotonic() - began >= 0.15


def test_a_letter_whose_subscription_is_gone_is_refused_and_says_what_to_do(shop):
    Inside(shop).withdraw("shop.offer")

    done = replayed(shop, DeadLetterQuery())

    assert (done.sent, len(done.refused)) == ([], 4)
    assert "start a worker that has it" in str(done.refused[0])
    assert states(shop) == {"pending": 4}


def test_a_publication_that_a_worker_could_not_do_is_replayed_as_one(shop, a_message):
    document = json.loads(a_message("published").model_dump_json())
    letter = a_letter(subscription="petiole.publish", queue="publish", document=document, cause="payload")
    Inside(shop).keep_dead_letter(letter)

    done = replayed(shop, DeadLetterQuery(ids=(letter.id,)), wait=True)

    assert done.progress == dead_letters.Progress(resolved=1)
    settle(shop)
    assert [(text, is_replay) for text, is_replay, _ in noted] == [("published", False)]


def test_a_publication_that_cannot_be_done_again_has_failed_again_in_its_place(shop, a_message):
    document = json.loads(a_message().model_dump_json(exclude={"content"})) | {"dataref": "petiole:sha256:00ff"}
    letter = a_letter(subscription="petiole.publish", queue="publish", document=document, cause="payload")
    Inside(shop).keep_dead_letter(letter)

    done = replayed(shop, DeadLetterQuery(ids=(letter.id,)), wait=True)

    assert done.progress == dead_letters.Progress(failed_again=1)
    assert states(shop) == {"pending": 4, "failed_again": 1}
    assert dead_letters.get_dead_letter(letter.id, bus=shop.bus).letter.error_type == "payload_missing"


def test_the_message_of_an_unknown_task_goes_back_as_it_came(shop, a_message):
    raw = base64.b64encode(a_raw_message(a_message("raw"), "shop.offer"))
    Inside(shop).keep_dead_letter(a_letter(cause="unknown_task", raw=raw, document=None))

    done = replayed(shop, DeadLetterQuery(ids=("a-letter",)), wait=True)

    assert done.progress == dead_letters.Progress(resolved=1)
    assert [(text, is_replay) for text, is_replay, _ in noted] == [("raw", True)]


@pytest.mark.parametrize("raw", [b"", b"\x80\x02", b"[1]", b'{"body": 1}', b"[" * 100_000])
def test_bytes_that_are_no_message_are_refused_and_replaced_by_an_event(shop, a_message, raw):
    Inside(shop).keep_dead_letter(
        a_letter(cause="undecodable", subscription="", raw=base64.b64encode(raw), document=None)
    )
    refusal = replayed(shop, DeadLetterQuery(ids=("a-letter",))).refused[0]

    new = dead_letters.edit("a-letter", json.loads(a_message("meant").model_dump_json()), bus=shop.bus)

    assert "cannot be parsed as a message; give the event that was meant" in str(refusal)
    assert (new.raw, new.edited_from, new.subscription) == (None, "a-letter", "petiole.publish")
    assert replayed(shop, DeadLetterQuery(ids=(new.id,)), wait=True).progress == dead_letters.Progress(resolved=1)
    settle(shop)
    assert [text for text, _, _ in noted] == ["meant"]
