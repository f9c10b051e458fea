"""Whatever enters a queue is handled or is one dead letter with its bytes, and its worker goes on.

PETIOLE_FAULTS=full sends 100,000 mutations of real messages instead of 2,000.
"""

from __future__ import annotations

import base64
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, cast
from uuid import UUID, uuid4

import kombu
import kombu.pools
import psutil
import pytest
import redis

from petiole.events import TextContent, TextMessageEvent
from petiole.events.dead_letter import DeadLetter
from petiole.tasks.broker.messages import queue_key
from petiole.tasks.broker.topology import RABBITMQ, broker_queues
from petiole.tasks.settings import Settings
from petiole.tasks.settlement.undecodable import drain_undecodable
from tests.support.apps import a_bus

IS_FULL = os.environ.get("PETIOLE_FAULTS") == "full"
INPUTS = 100_000 if IS_FULL else 1_000
SEED = int(os.environ.get("PETIOLE_FAULT_SEED", "4"))

AGENT = """
import os
import redis
from petiole.events import Event
from petiole.tasks import Agent

store = redis.Redis.from_url(os.environ["HANDLED"])
agent = Agent("one")

@agent.on("input.*")
def count(event: Event) -> None:
    store.rpush("handled", event.event_id)
"""

Make = Callable[[], bytes]


class System:
    """A worker with the agent `one`, a queue to write anything into, and what has become of it."""

    def __init__(self, node: Any, url: str, state_url: str, eventually: Any) -> None:
        self.node = node
        self.store = redis.Redis.from_url(state_url)
        self.eventually = eventually
        self.bus = a_bus(settings=Settings(state_url=state_url))
        self.bus.app.conf.update(broker_url=url, result_backend=state_url)
        node.module("agent_one", AGENT)
        node.environment.update(PETIOLE_AGENTS="agent_one", HANDLED=state_url)

    def start(self, *pool: str) -> psutil.Process:
        """Start a worker that only has warnings to say."""
        process = self.node.worker("wire", *(pool or ("--pool", "solo")), "--without-mingle", "--without-gossip")
        return psutil.Process(process.pid)

    def push(self, *texts: bytes) -> None:
        self.store.lpush("one", *texts)

    def letters(self) -> list[DeadLetter]:
        return self.bus.stores.dead_letters.all()

    def handled(self) -> int:
        return int(self.store.llen("handled"))

    def drain(self) -> int:
        return drain_undecodable(self.bus, self.channel)

    @cached_property
    def channel(self) -> Any:
        """A channel of our transport's, as a consumer has one."""
        return self.bus.app.connection_for_write().default_channel

    def is_settled(self) -> bool:
        """Tell whether nothing waits, nothing is held, and nothing is left to drain."""
        waiting = sum(int(self.store.llen(queue_key("one", priority))) for priority in (0, 3, 6, 9))
        return waiting + int(self.store.hlen("unacked")) + self.drain() == 0

    def await_settled(self, timeout_s: float = 30) -> None:
        self.eventually(self.is_settled, timeout_s, self.explain)

    def explain(self) -> str:
        """Tell what waits, what is held, and the last thing that could not be written."""
        held = [entry[:1_500] for entry in self.store.hvals("unacked")]
        logs = self.node.logs()
        unwritten = logs[logs.rfind("dead_letter.write_failed") :][:6_000] if "dead_letter.write_failed" in logs else ""
        return f"held {held}\n{unwritten}\n{logs[-1_000:]}"


@pytest.fixture
def system(node, clean_broker_url, eventually, caplog):
    caplog.set_level("CRITICAL", "petiole")
    system = System(node, f"petiole+{clean_broker_url}", clean_broker_url, eventually)
    yield system
    system.bus.close()


def an_event(**fields: object) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        TextMessageEvent(stream_id="s", content=TextContent(text="hello")).model_dump_json()
    )
    return document | fields


def body_of(*args: object) -> bytes:
    embedded = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    return json.dumps([list(args), {}, embedded]).encode()


def a_message(of: bytes | None = None, *, task: str = "one.count", **parts: object) -> dict[str, Any]:
    """Make a message as Celery puts it in a Redis list, with an id of its own."""
    delivery_id = str(uuid4())
    return {
        "body": base64.b64encode(body_of(an_event()) if of is None else of).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": task,
            "id": delivery_id,
            "shadow": None,
            "eta": None,
            "expires": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": delivery_id,
            "parent_id": None,
            "argsrepr": "input.message.received",
            "kwargsrepr": "",
            "origin": "gen1@host",
            "ignore_result": True,
            "stamped_headers": None,
            "stamps": {},
        },
        "properties": {
            "correlation_id": delivery_id,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "one"},
            "priority": 4,
            "body_encoding": "base64",
            "delivery_tag": str(uuid4()),
        },
    } | parts


def bare(correlation_id: str, **parts: object) -> bytes:
    """Write a message of which nothing can be read but its properties."""
    message = a_message()
    message["properties"]["correlation_id"] = correlation_id
    return written({"properties": message["properties"]} | parts)


def written(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode()


def with_part(name: str, value: object, of: bytes | None = None) -> bytes:
    return written(a_message(of) | {name: value})


def with_header(name: str, value: object) -> bytes:
    message = a_message()
    message["headers"][name] = value
    return written(message)


def with_property(name: str, value: object) -> bytes:
    message = a_message()
    message["properties"][name] = value
    return written(message)


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


def deep_event(depth: int) -> bytes:
    event = json.dumps(an_event()).encode()
    return b"[[" + event[:-1] + b', "metadata": ' + nested(depth) + b"}], {}, {}]"


def twice_named() -> bytes:
    event = json.dumps(an_event()).encode()
    return b"[[" + event[:-1] + b', "stream_id": "another"}], {}, {}]'


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
    "an event that is a list": ("invalid", lambda: body_of([])),
    "an event without a type": ("invalid", lambda: body_of({})),
    "an unknown type": ("unknown_type", lambda: body_of(an_event(event_type="input.never.heard_of"))),
    "a newer version": ("unknown_type", lambda: body_of(an_event(schema_version=99))),
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
    "an empty tag": ("undecodable", lambda: with_property("delivery_tag", "")),
    "a tag that is no text": ("undecodable", lambda: with_property("delivery_tag", "\udcff\u20ac")),
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
    "an unknown task": ("unknown_task", lambda: written(a_message(task="one.gone"))),
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


POOLS: list[tuple[str, ...]] = [("--pool", "prefork", "-c", "1")]
POOLS += [("--pool", "solo"), ("--pool", "threads", "-c", "2")] if IS_FULL else []


@pytest.mark.timeout(180)
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
    message = a_message(body_of(event), task="one.gone")

    system.push(written(message))
    system.await_settled()

    (letter,) = system.letters()
    assert (letter.cause, letter.subscription, letter.queue) == ("unknown_task", "one.gone", "one")
    assert (letter.id, letter.document, letter.raw) == (message["headers"]["id"], event, written(message))
    told: list[Any] = [x.document for x in system.bus.stores.history.read_after() if x.topic == "error.dead_lettered"]
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
    # A key of the wrong type: nothing can be written into it.
    system.store.set("petiole:dead_letters", "in the way")
    text = written(a_message(b"no JSON"))

    system.push(text, written(a_message()))
    system.eventually(lambda: "dead_letter.write_failed" in system.node.logs(), 20, system.node.logs)
    system.eventually(lambda: system.handled() == 1, 20, system.node.logs)

    assert int(system.store.hlen("unacked")) == 1, "it is not acknowledged"
    system.store.delete("petiole:dead_letters")
    system.eventually(lambda: [letter.raw for letter in system.letters()] == [text], 20, system.node.logs)
    system.await_settled()
    assert system.node.logs().count("dead_letter.write_failed") <= 3, "it waits between its tries"


@pytest.fixture
def on_rabbitmq(node, rabbit_url, clean_broker_url, eventually, caplog):
    caplog.set_level("CRITICAL", "petiole")
    queues = [name for queue in ("one", "publish") for name in broker_queues(queue, RABBITMQ)]
    with kombu.Connection(rabbit_url) as connection:
        channel: Any = connection.channel()
        for queue in queues:
            channel.queue_delete(queue)
        node.environment.update(PETIOLE_BROKER_URL=rabbit_url, PETIOLE_STATE_URL=clean_broker_url)
        yield System(node, rabbit_url, clean_broker_url, eventually), channel
        for queue in queues:
            channel.queue_delete(queue)
    kombu.pools.reset()


@pytest.mark.long
@pytest.mark.timeout(120)
def test_what_enters_a_queue_of_rabbitmq_is_one_dead_letter_with_its_bytes(on_rabbitmq):
    system, channel = on_rabbitmq
    worker = system.start()
    bodies = {f"body: {name}": (cause, make()) for name, (cause, make) in BODIES.items()}
    sent = [
        ("a wrong content type", "undecodable", "one.count", "application/x-strange", body_of(an_event())),
        ("a pickle", "undecodable", "one.count", "application/x-python-serialize", b"\x80\x04N."),
        ("an unknown task", "unknown_task", "one.gone", "application/json", body_of(an_event())),
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


def mutated(chance: random.Random) -> bytes:
    """Make a real message and spoil it in one way, or in several."""
    message = a_message(body_of(an_event(event_id=a_uuid(chance), timestamp="2026-01-31T12:00:00Z")))
    message["headers"]["id"], message["properties"]["delivery_tag"] = a_uuid(chance), a_uuid(chance)
    if chance.random() < 0.3:
        message["body"] = base64.b64encode(spoiled(chance, base64.b64decode(message["body"]))).decode()
    if chance.random() < 0.4:
        spoil_values(chance, message)
    text = json.dumps(message).encode()
    return spoiled(chance, text) if chance.random() < 0.4 else text


def a_uuid(chance: random.Random) -> str:
    return str(UUID(int=chance.getrandbits(128), version=4))


def spoil_values(chance: random.Random, message: dict[str, Any]) -> None:
    odd: list[object] = [None, True, 0, -1, 10**30, 1.5, "", "x", "\udc80", [], [1], {}, {"__type__": "date"}, [[[]]]]
    place = chance.choice([message, message["headers"], message["properties"], message["properties"]["delivery_info"]])
    name, value = chance.choice(list(place)), chance.choice(odd)
    # Two messages of one id would be one delivery.
    place[name] = f"{value}{a_uuid(chance)}" if name in {"id", "delivery_tag"} and value == "x" else value


def spoiled(chance: random.Random, text: bytes) -> bytes:
    changed = bytearray(text)
    for _ in range(chance.choice([1, 1, 2, 8])):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(5):
            case 0 if changed:
                changed[at % len(changed)] ^= 1 << chance.randrange(8)
            case 1:
                del changed[at:]
            case 2:
                other = chance.randrange(len(changed) + 1)
                changed[at:at] = changed[other : other + chance.randrange(40)]
            case 3:
                del changed[at : at + chance.randrange(20)]
            case _:
                changed[at:at] = chance.choice([b"\0", b'"', b"}", b"{", b"[", b"\xff", b"NaN", b"\\u", b"1e999", b","])
    return bytes(changed)


@pytest.mark.timeout(3_600 if IS_FULL else 150)
def test_a_spoiled_message_ends_as_handled_or_as_one_dead_letter(system, capsys):
    chance = random.Random(SEED)
    worker = system.start()
    begun = time.monotonic()
    seen: set[bytes] = set()

    while len(seen) < INPUTS:
        # Bytes that are the same are one dead letter.
        texts = {mutated(chance) for _ in range(min(1_000, INPUTS - len(seen)))} - seen
        system.push(*texts)
        seen |= texts
        system.await_settled(60)
        assert worker.is_running(), system.node.logs()[-3000:]
    system.push(written(a_message()))
    system.await_settled()

    sent, causes = len(seen), Counter(letter.cause for letter in system.letters())
    tally = f"sent {sent}, handled {system.handled() - 1}, dead letters {causes.total()}: {dict(causes)}"
    with capsys.disabled():
        print(f"\nseed {SEED}, {time.monotonic() - begun:.0f} s: {tally}; worker deaths 0")
    assert system.handled() - 1 + causes.total() == sent, f"{tally}; among them {unaccounted(system, seen)}"


def unaccounted(system: System, sent: set[bytes]) -> list[bytes]:
    """Find inputs of which nothing is known, for whoever reads a failure."""
    letters = system.letters()
    known = {letter.raw for letter in letters} | {letter.delivery_id for letter in letters}
    handled = set(map(bytes.decode, cast("list[bytes]", system.store.lrange("handled", 0, -1))))
    found = []
    for text in sent - known:
        try:
            message = json.loads(text)
            event = json.loads(base64.b64decode(message["body"]))[0][0]
            is_known = message["headers"]["id"] in known or event["event_id"] in handled
        except (ValueError, TypeError, LookupError, RecursionError):
            is_known = False
        if not is_known:
            found.append(text)
    return found
