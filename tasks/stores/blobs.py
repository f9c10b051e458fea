"""Blobs: event contents above the claim-check threshold, each stored once.

Promise: content is read as it was stored, or not at all, because its key is its hash. It is kept for `age` after it was
last stored or read, for any number of events that refer to it. The content of an event that expires is kept for
EXPIRED_RETENTION longer than the event, unless another event has the same.
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
"""Attribute that refers to content stored elsewhere. Source: CloudEvents extension `dataref`."""

EXPIRED_RETENTION = timedelta(minutes=5)
"""For readers of the history, and for attempts that began in time."""

_SCHEME = "petiole:sha256:"

Document: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Blob:
    """Content as UTF-8 JSON, and the reference that replaces it. `lifetime` is that of an event that expires."""

    reference: str
    content: bytes
    lifetime: timedelta | None = None


def build_blob(content: object, lifetime: timedelta | None = None) -> Blob:
    """Build the blob of a JSON value; equal contents have the same reference."""
    written = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    return Blob(_build_reference(written), written, lifetime)


def find_reference(document: object) -> str | None:
    """Return the reference that replaces a document's content; None if the content is inline or it is not an event."""
    reference = document.get(DATAREF) if isinstance(document, Mapping) else None
    return reference if isinstance(reference, str) and reference.startswith(_SCHEME) else None


class Blobs:
    """Contents by hash."""

    def __init__(self, client: Redis, keys: Keys, age: timedelta, max_bytes: int) -> None:
        self._client = client
        self._keys = keys
        self._age = age
        self._max_bytes = max_bytes

    def put(self, blobs: Iterable[Blob]) -> None:
        """Store contents. Safe to repeat; overwrites altered content."""
        with self._client.pipeline(transaction=False) as pipe:
            for blob in dict.fromkeys(blobs):
                key = self._key(blob.reference)
                if blob.lifetime is None:
                    pipe.set(key, blob.content, px=self._age)
                    continue
                age = min(self._age, max(timedelta(), blob.lifetime) + EXPIRED_RETENTION)
                # An event that lasts longer may have the same content.
                pipe.set(key, blob.content, px=age, nx=True)
                pipe.pexpire(key, age, gt=True)
            pipe.execute()

    def restore(self, document: Document) -> Document:
        """Replace a document's reference by the content; returns other documents unchanged.

        Raises: PayloadUnreadable (payload_missing, payload_altered, payload_too_large).
        """
        reference = find_reference(document)
        if reference is None:
            return document
        topic = str(document.get("event_type") or document.get("type"))
        content = json.loads(self._read(topic, reference, expires=document.get("expires_at") is not None))
        attributes = {name: value for name, value in document.items() if name != DATAREF}
        is_cloudevent = "specversion" in document
        return attributes | ({"data": {"content": content}} if is_cloudevent else {"content": content})

    def _read(self, topic: str, reference: str, *, expires: bool) -> bytes:
        # Read as bytes: altered content may be invalid UTF-8, on which a decoding client raises.
        with self._client.pipeline(transaction=False) as pipe:
            if expires:
                pipe.exists(self._key(reference))
            else:
                pipe.pexpire(self._key(reference), self._age)
            # One byte more than the limit, whatever another program has stored there.
            pipe.execute_command("GETRANGE", self._key(reference), 0, self._max_bytes, **{NEVER_DECODE: True})  # type: ignore[no-untyped-call]  # redis's
            is_present, found = pipe.execute()
        if not is_present:
            raise PayloadUnreadable(topic, reference, code="payload_missing")
        if len(found) > self._max_bytes:
            raise PayloadUnreadable(topic, reference, code="payload_too_large")
        if _build_reference(found) != reference:
            raise PayloadUnreadable(topic, reference, code="payload_altered")
        return bytes(found)

    def _key(self, reference: str) -> str:
        return self._keys.blob(reference.removeprefix(_SCHEME))


def _build_reference(content: bytes) -> str:
    return f"{_SCHEME}{hashlib.sha256(content).hexdigest()}"
