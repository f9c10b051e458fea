"""Whatever enters a queue is handled or is one dead letter with its bytes, and its worker goes on."""

from __future__ import annotations

import base64
import bz2
import json
import random
import zlib
from collections import Counter
from collections.abc import Sequence
from uuid import uuid4

import pytest

from petiole.events.dead_letter import DeadLetter
from tests.faults.malformed.messages import (
    AGENT,
    Make,
    a_message,
    an_event,
    bare,
    body_of,
    compressed,
    deep_event,
    nested,
    twice_named,
    with_header,
    with_part,
    with_property,
    written,
)
from tests.support.traffic import IS_FULL

SPACES = b" " * 200_000_000
LISTS = b"[[" + b"[]," * 1_000_000 + b"0], {}, {}]"

BODIES: dict[str, tuple[str, Make]] = {
    # A body of a message that is otherwise as it should be: what is to become of it, and how it is made.
    "broken UTF-8": ("undecodable", lambda: b'[[{"event_type": "\xff\xfe"}], {}, {}]'),
    "no JSON": ("undecodable", lambda: b"[[{"),
    "a number": ("undecodable", lambda: b"5"),
    "a list": ("undecodable", lambda: b"[]"),
    "text of three characters": ("undecodable", lambda: b'"abc"'),
    "an object of three names": ("undecodable", lambda: b'{"a": 1, "b": 2, "c": 3}'),
    "null": ("undecodable", lambda: b"null"),
    "two arguments": ("undecodable", lambda: body_of(an_event(), an_event())),
    "no argument": ("undecodable", body_of),
    "arguments that are no list": ("undecodable", lambda: b"[5, {}, {}]"),
    "a third part that is no object": ("undecodable", lambda: b"[[{}], {}, [1]]"),
    "a third part that overrides": ("undecodable", lambda: b'[[{}], {}, {"retries": "x"}]'),
    "NaN": ("undecodable", lambda: body_of(an_event(metadata={"share": float("nan")}))),
    "a number beyond numbers": ("undecodable", lambda: body_of(an_event()).replace(b'"hello"', b"1e999")),
    "a number of 5,000 digits": ("undecodable", lambda: body_of(an_event()).replace(b'"hello"', b"9" * 5_000)),
    "a name that occurs twice": ("undecodable", twice_named),
    "half a surrogate pair": ("undecodable", lambda: body_of(an_event()).replace(b"hello", b"\\ud800")),
    "10,000 levels": ("undecodable", lambda: deep_event(10_000)),
    "900 levels": ("undecodable", lambda: deep_event(900)),
    "201 levels": ("undecodable", lambda: deep_event(201)),
    "10 MB": ("invalid", lambda: body_of(an_event(content={"text": "x" * 10_000_000}))),
    "40 MB, which nobody parses": ("invalid", lambda: b"[" * 40_000_000),
    "a million lists": ("undecodable", lambda: LISTS),
    "an event that is a list": ("invalid", lambda: body_of([])),
    "an event without a type": ("invalid", lambda: body_of({})),
    "a broken rule": ("invalid", lambda: body_of(an_event(stream_id=""))),
}

TEXTS: dict[str, tuple[str, Make]] = {
    # The text in the list.
    "zero bytes": ("undecodable", lambda: b""),
    "one null byte": ("undecodable", lambda: b"\0"),
    "random bytes": ("undecodable", lambda: random.randbytes(500)),
    "a pickle": ("undecodable", lambda: b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07message\x94."),
    "a list": ("undecodable", lambda: b"[1, 2, 3]"),
    "a number": ("undecodable", lambda: b"5"),
    "10,000 levels": ("undecodable", lambda: nested(10_000)),
    "990 levels in the headers": (
        "undecodable",
        lambda: written(a_message(x=0)).replace(b'"x": 0', b'"x": ' + nested(990)),
    ),
    "broken UTF-8": ("undecodable", lambda: written(a_message(x=0)).replace(b'"x": 0', b'"x": "\xff\xfe"')),
    "no properties": ("undecodable", lambda: b'{"body": "", "headers": {}}'),
    "neither body nor headers": ("undecodable", lambda: bare("one")),
    "as little, of another message": ("undecodable", lambda: bare("another")),
    "neither, and headers that are none": ("undecodable", lambda: bare("one", headers="x")),
    "as little, of another such": ("undecodable", lambda: bare("another", headers="x")),
    "a typed value that is none": ("undecodable", lambda: with_header("x", {"__type__": "uuid", "__value__": 5})),
}

MESSAGES: dict[str, tuple[str, Make]] = {
    # The whole message, which is JSON and has a tag.
    "a wrong content type": ("undecodable", lambda: with_part("content-type", "application/x-strange")),
    "a pickle": (
        "undecodable",
        lambda: with_part("content-type", "application/x-python-serialize", b"\x80\x04N."),
    ),
    "no content type": ("undecodable", lambda: with_part("content-type", None)),
    "a content type that is a list": ("undecodable", lambda: with_part("content-type", [])),
    "broken base64": ("undecodable", lambda: written(a_message(body="abcde"))),
    "a body that is an object": ("undecodable", lambda: written(a_message(body={}))),
    "no body": ("undecodable", lambda: written(a_message(body=None))),
    "an unknown encoding of the body": ("undecodable", lambda: with_property("body_encoding", "rot13")),
    "headers that are a list": ("undecodable", lambda: written(a_message(headers=[1]))),
    "no headers": ("undecodable", lambda: written(a_message(headers=None))),
    "an origin that is text": ("undecodable", lambda: with_property("delivery_info", "one")),
    "a broken compression": ("undecodable", lambda: with_header("compression", "application/x-gzip")),
    "200 MB in 200 KB of gzip": ("undecodable", lambda: compressed("application/x-gzip", zlib.compress(SPACES))),
    "a million lists in gzip": ("undecodable", lambda: compressed("application/x-gzip", zlib.compress(LISTS))),
    "a million lists that name no task": ("undecodable", lambda: written(a_message(LISTS, headers={}))),
    "200 MB in 200 bytes of bzip2": ("undecodable", lambda: compressed("application/x-bz2", bz2.compress(SPACES))),
    "an unknown task": ("unknown_task", lambda: written(a_message(task="another.gone"))),
    "a task that is a list": ("undecodable", lambda: with_header("task", [])),
    "no id": ("undecodable", lambda: with_part("headers", {"task": "one.count"})),
    "an unknown task without an id": ("unknown_task", lambda: with_part("headers", {"task": "one.gone"})),
    "an id that is an object": ("undecodable", lambda: with_header("id", {})),
    "a time limit that is text": ("undecodable", lambda: with_header("timelimit", "ab")),
    "an hour that never comes": ("undecodable", lambda: with_header("eta", "9999-12-31T23:59:59+00:00")),
    "an hour that is an object": ("undecodable", lambda: with_header("eta", {"a": 1})),
    "a task that has expired": ("expired", lambda: with_header("expires", "2020-01-01T00:00:00+00:00")),
    "retries that are nothing": ("undecodable", lambda: with_header("retries", None)),
    "retries that are text": ("undecodable", lambda: with_header("retries", "x")),
    "a header that hides a method": ("undecodable", lambda: with_header("get", 5)),
    "stamps that are lists": ("undecodable", lambda: with_header("stamped_headers", [[]])),
    "a shadow that is a list": ("undecodable", lambda: with_header("shadow", [1])),
    "900 levels of headers": ("undecodable", lambda: with_header("x", 0).replace(b'"x": 0', b'"x": ' + nested(900))),
}


def inputs() -> dict[str, tuple[str, bytes]]:
    """Make all of them: the cause of each one's dead letter, and its text."""
    made = {f"text: {name}": (cause, make()) for name, (cause, make) in TEXTS.items()}
    made |= {f"message: {name}": (cause, make()) for name, (cause, make) in MESSAGES.items()}
    return made | {f"body: {name}": (cause, written(a_message(make()))) for name, (cause, make) in BODIES.items()}


def outcome(letters: list[DeadLetter], text: bytes) -> Sequence[str]:
    """Find the causes of the dead letters that hold these bytes, or the event that they carried."""
    found = [letter.cause for letter in letters if letter.raw == text]
    if found:
        return found
    try:
        message = json.loads(text)
        event = json.loads(base64.b64decode(message["body"]))[0][0]
    except (ValueError, TypeError, LookupError, RecursionError):
        return []
    return [
        letter.cause
        for letter in letters
        if letter.delivery_id == message["headers"]["id"] and letter.document == event
    ]


POOLS: list[tuple[str, ...]] = [("--pool", "threads", "-c", "2")]
POOLS += [("--pool", "prefork", "-c", "1"), ("--pool", "solo")] if IS_FULL else []


@pytest.mark.parametrize("pool", POOLS, ids=lambda options: options[1])
def test_whatever_enters_a_queue_is_one_dead_letter_with_its_bytes(system, pool, capsys):
    worker = system.start(*pool)
    children = {child.pid for child in worker.children()}
    sent = inputs()

    system.push(*(text for _, text in sent.values()))
    system.await_settled()
    system.push(*(written(a_message()) for _ in range(20)))
    system.eventually(lambda: system.handled() == 20, 20, system.node.logs)
    system.await_settled()

    letters = system.letters()
    told = {name: outcome(letters, text) for name, (_, text) in sent.items()}
    with capsys.disabled():
        print(f"\n{pool[1]}: sent {len(sent)}, dead letters {len(letters)}: {dict(Counter(x.cause for x in letters))}")
    assert told == {name: [cause] for name, (cause, _) in sent.items()}
    assert len(letters) == len(sent)
    assert all(letter.attempts == () for letter in letters)
    assert worker.is_running(), system.node.logs()[-3000:]
    assert {child.pid for child in worker.children()} == children, "no slot was lost either"


def test_an_unknown_task_keeps_its_event_and_tells_the_error_channel(system):
    system.start()
    event = an_event()
    message = a_message(body_of(event), task="another.gone")

    system.push(written(message))
    system.await_settled()

    (letter,) = system.letters()
    assert (letter.cause, letter.subscription, letter.queue) == ("unknown_task", "another.gone", "one")
    assert (letter.id, letter.document, letter.raw) == (message["headers"]["id"], event, written(message))
    told = system.inside.history("error.dead_lettered")
    assert [each["content"]["parameters"]["cause"] for each in told] == ["unknown_task"]


def test_a_hard_time_limit_of_celery_is_a_dead_letter_and_no_loss(system):
    system.node.module(
        "agent_one", AGENT.replace("    store.rpush", "    import time; time.sleep(60)\n    store.rpush")
    )
    worker = system.start("--pool", "prefork", "-c", "1", "--time-limit", "1")
    event = an_event()

    system.push(written(a_message(body_of(event))))
    system.eventually(lambda: system.letters() != [], 20, system.node.logs)
    system.await_settled()

    (letter,) = system.letters()
    assert (letter.cause, letter.error_type, letter.document) == ("failed", "TimeLimitExceeded", event)
    assert worker.is_running()


def test_an_event_that_was_told_to_publish_and_cannot_be_is_kept(system):
    system.start()

    system.store.lpush("publish", written(a_message(body_of({"event_type": "no.such.type"}), task="petiole.publish")))
    system.eventually(lambda: system.letters() != [], 20, system.node.logs)

    (letter,) = system.letters()
    assert (letter.cause, letter.subscription) == ("unknown_type", "petiole.publish")
    assert letter.document == {"event_type": "no.such.type"}


def test_bytes_that_cannot_be_kept_now_stay_and_are_kept_later(system):
    system.start()
    system.inside.break_dead_letters()
    text = written(a_message(b"no JSON"))

    system.push(text, written(a_message()))
    system.eventually(lambda: "dead_letter.write_failed" in system.node.logs(), 20, system.node.logs)
    system.eventually(lambda: system.handled() == 1, 20, system.node.logs)

    assert system.inside.unacknowledged() == 1, "it is not acknowledged"
    system.inside.mend_dead_letters()
    system.eventually(lambda: [letter.raw for letter in system.letters()] == [text], 20, system.node.logs)
    system.await_settled()
    assert system.node.logs().count("dead_letter.write_failed") <= 3, "it waits between its tries"


@pytest.mark.long
def test_what_enters_a_queue_of_rabbitmq_is_one_dead_letter_with_its_bytes(on_rabbitmq):
    system, channel = on_rabbitmq
    worker = system.start()
    bodies = {f"body: {name}": (cause, make()) for name, (cause, make) in BODIES.items()}
    sent = [
        ("a wrong content type", "undecodable", "one.count", "application/x-strange", body_of(an_event())),
        ("a pickle", "undecodable", "one.count", "application/x-python-serialize", b"\x80\x04N."),
        ("an unknown task", "unknown_task", "another.gone", "application/json", body_of(an_event())),
        ("no task", "undecodable", None, "application/json", b"{}"),
        ("no body", "undecodable", "one.count", "application/json", b""),
        *((name, cause, "one.count", "application/json", body) for name, (cause, body) in bodies.items()),
    ]
    ids = {}

    for name, _, task, content_type, body in sent:
        ids[name] = str(uuid4())
        headers = {"id": ids[name], "task": task, "retries": 0} if task else {"x": name}
        message = channel.prepare_message(body, content_type=content_type, content_encoding="utf-8", headers=headers)
        channel.basic_publish(message, exchange="", routing_key="one")
    system.eventually(lambda: len(system.letters()) >= len(sent), 60, system.node.logs)
    message = channel.prepare_message(
        body_of(an_event()),
        content_type="application/json",
        content_encoding="utf-8",
        headers={"id": str(uuid4()), "task": "one.count", "retries": 0},
    )
    channel.basic_publish(message, exchange="", routing_key="one")
    system.eventually(lambda: system.handled() == 1, 20, system.node.logs)

    assert worker.is_running()
    assert len(system.letters()) == len(sent)
    for name, cause, task, content_type, body in sent:
        (letter,) = [each for each in system.letters() if is_of(each, ids[name] if task else None)]
        assert (name, letter.cause) == (name, cause)
        if letter.raw is None:
            assert json.loads(body)[0] == [letter.document]
        else:
            kept = json.loads(letter.raw)
            assert (name, base64.b64decode(kept["body"]), kept["content-type"]) == (name, body, content_type)
            assert kept["headers"].get("task") == task
    assert channel.queue_declare("one", passive=True).message_count == 0


def is_of(letter: DeadLetter, delivery_id: str | None) -> bool:
    """Tell whether a dead letter is of that delivery, or of a message that names none."""
    return letter.delivery_id == delivery_id if delivery_id else letter.subscription == ""


def test_what_another_version_of_the_worker_may_run_is_parked_and_no_dead_letter(system):
    system.start()
    unknown_type = a_message(body_of(an_event(event_type="input.never.heard_of")))
    newer = a_message(body_of(an_event(schema_version=99, content={"words": "renamed"})))

    system.push(written(unknown_type), written(newer), written(a_message(task="one.gone")))

    needs = {"one:type:input.never.heard_of", "one:version:input.message.received:99", "one:handler:one.gone"}
    system.eventually(lambda: system.inside.parked().keys() == needs, 20, system.node.logs)
    system.await_settled()
    assert system.letters() == []
