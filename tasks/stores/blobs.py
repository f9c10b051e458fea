"""Blobs: contents of events that are too large to travel, each stored once.

Promise: a content is read as it was stored, or not at all: its name is its hash. It stays for `age` after it was last
stored or read, however many events and deliveries refer to it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from redis import Redis
from redis.client import NEVER_DECODE

from petiole.events.errors import PayloadUnreadable
from petiole.tasks.stores.keys import Keys

DATAREF = "dataref"
"""The attribute that stands for a content which is kept elsewhere, as CloudEvents' extension of that name has it."""

_SCHEME = "petiole:sha256:"

Document: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Blob:
    """A content as UTF-8 JSON, and the reference to it that travels in its place."""

    reference: str
    content: bytes


def blob_of(content: object) -> Blob:
    """Make a blob of a content's JSON value; equal contents have the same reference."""
    written = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    return Blob(_reference_to(written), written)


def reference_in(document: object) -> str | None:
    """Find the reference that a JSON object has in place of its content; None where it is whole, or no event."""
    reference = document.get(DATAREF) if isinstance(document, Mapping) else None
    return reference if isinstance(reference, str) and reference.startswith(_SCHEME) else None


class Blobs:
    """Contents by their hash."""

    def __init__(self, client: Redis, keys: Keys, age: timedelta) -> None:
        self._client = client
        self._keys = keys
        self._age = age

    def put(self, blobs: Iterable[Blob]) -> None:
        """Store contents; safe to repeat, and mends what was altered meanwhile."""
        with self._client.pipeline(transaction=False) as pipe:
            for blob in {each.reference: each for each in blobs}.values():
                pipe.set(self._key(blob.reference), blob.content, px=self._age)
            pipe.execute()

    def whole(self, document: Document) -> Document:
        """Put the content back where a JSON object has a reference; others are returned as they are.

        Raises: PayloadUnreadable (payload_missing, payload_altered).
        """
        reference = reference_in(document)
        if reference is None:
            return document
        topic = str(document.get("event_type") or document.get("type"))
        content = json.loads(self._read(topic, reference))
        attributes = {name: value for name, value in document.items() if name != DATAREF}
        is_cloudevent = "specversion" in document
        return attributes | ({"data": {"content": content}} if is_cloudevent else {"content": content})

    def _read(self, topic: str, reference: str) -> bytes:
        # As bytes: what was altered may be no text at all, which a decoding client would stumble over.
        age_ms = int(self._age.total_seconds() * 1_000)
        read = ("GETEX", self._key(reference), "PX", age_ms)
        found = self._client.execute_command(*read, **{NEVER_DECODE: True})  # type: ignore[no-untyped-call]  # redis's
        if not isinstance(found, bytes):
            raise PayloadUnreadable(topic, reference, code="payload_missing")
        if _reference_to(found) != reference:
            raise PayloadUnreadable(topic, reference, code="payload_altered")
        return found

    def _key(self, reference: str) -> str:
        return self._keys.blob(reference.removeprefix(_SCHEME))


def _reference_to(content: bytes) -> str:
    return f"{_SCHEME}{hashlib.sha256(content).hexdigest()}"
