"""Mutations of real messages end as handled, as parked, or as one dead letter.

PETIOLE_FAULTS=full sends 100,000 of them instead of 1,000.
"""

from __future__ import annotations

import base64
import json
import os
import random
import time
from collections import Counter
from typing import Any, cast
from uuid import UUID

import pytest

from tests.faults.malformed.messages import System, a_message, an_event, body_of, written
from tests.support.traffic import IS_FULL

INPUTS = 100_000 if IS_FULL else 1_000
SEED = int(os.environ.get("PETIOLE_FAULT_SEED", "4"))


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


@pytest.mark.timeout(3_600 if IS_FULL else 400)
def test_a_spoiled_message_is_handled_or_parked_or_one_dead_letter(system, capsys):
    chance = random.Random(SEED)
    worker = system.start()
    begun = time.monotonic()
    seen: set[bytes] = set()

    while len(seen) < INPUTS:
        # Bytes that are the same are one dead letter.
        texts = {mutated(chance) for _ in range(min(1_000, INPUTS - len(seen)))} - seen
        system.push(*texts)
        seen |= texts
        system.await_settled(200)
        assert worker.is_running(), system.node.logs()[-3000:]
    system.push(written(a_message()))
    system.await_settled()

    sent, causes = len(seen), Counter(letter.cause for letter in system.letters())
    # A message may have become one for another version of the agent or of the type.
    parked = system.inside.counts().get("parked", 0)
    tally = f"sent {sent}, handled {system.handled() - 1}, parked {parked}, dead letters {dict(causes)}"
    with capsys.disabled():
        print(f"\nseed {SEED}, {time.monotonic() - begun:.0f} s: {tally}; worker deaths 0")
    assert system.handled() - 1 + parked + causes.total() == sent, f"{tally}; among them {unaccounted(system, seen)}"


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
