"""Sign events: HMAC-SHA256 with a key of the publisher.

Keys are in a TOML file, a table for each publisher. The first key of a table signs; each of them is accepted. So a key
is replaced without a pause: add the new one below, everywhere; then put it first; then remove the old one.

    [checkout]
    2026-11 = "8f1e…"          key id = secret: at least 32 characters, such as of `openssl rand -hex 32`
    2026-10 = "a09c…"

A signature is `<key id>:<MAC in base64url>`. It covers every attribute of the event, its publisher, and the hash of its
content: `encode_signed`. So it stays valid where an event is written again with the same values: in a message of
Celery's, in a dead letter, and with its content stored apart.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path

from petiole.events.errors import UsageError
from petiole.events.event import PUBLISHER, SIGNATURE
from petiole.events.ids import PUBLISHER_NAME
from petiole.tasks.stores.blobs import DATAREF, build_blob, find_reference

_MOUNTED_SECRETS = "/run/secrets"
"""Here container runtimes mount secrets, readable for all of a container, which has one user."""

_MIN_SECRET_LENGTH = 32
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CONTEXT = b"petiole-event-1\n"
_VARIABLE = "PETIOLE_SIGNING_KEYS"


class SigningKeys:
    """The keys of publishers, by name and key id. Their values appear in no text."""

    def __init__(self, keys: Mapping[str, Mapping[str, bytes]]) -> None:
        self._keys = keys

    def __repr__(self) -> str:
        return f"SigningKeys({', '.join(sorted(self._keys))})"

    def __contains__(self, publisher: str) -> bool:
        return publisher in self._keys

    def sign(self, document: Mapping[str, object], publisher: str) -> str:
        """Sign an event's JSON object with the first key of its publisher."""
        key_id, secret = next(iter(self._keys[publisher].items()))
        return f"{key_id}:{_mac(secret, encode_signed(document, publisher))}"

    def find_problem(self, document: Mapping[str, object], publisher: str, signature: str) -> str | None:
        """Return what is wrong with a signature; None if it is valid."""
        key_id, _, mac = signature.partition(":")
        secret = self._keys.get(publisher, {}).get(key_id)
        if publisher not in self._keys:
            return "its publisher is unknown"
        if secret is None:
            return "its key is unknown"
        try:
            expected = _mac(secret, encode_signed(document, publisher))
            is_valid = hmac.compare_digest(expected.encode(), mac.encode())
        except (ValueError, RecursionError):
            return "its signature cannot be checked, because the event is no valid JSON"
        return None if is_valid else "its signature is wrong"


def encode_signed(document: Mapping[str, object], publisher: str) -> bytes:
    """Encode what a signature covers. Raises ValueError, RecursionError for values that JSON cannot express."""
    reference = find_reference(document)
    left_out = {PUBLISHER, SIGNATURE, "content"} | ({DATAREF} if reference is not None else set())
    if reference is None and "content" in document:
        reference = build_blob(document["content"]).reference
    attributes = {name: value for name, value in document.items() if name not in left_out}
    signed = {"attributes": attributes, "content": reference, "publisher": publisher}
    return _CONTEXT + json.dumps(signed, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def load_keys(path: Path | None) -> SigningKeys | None:
    """Load the keys' file. Raises UsageError (invalid_signing_keys) with the reason, and never with a key."""
    if path is None:
        return None
    try:
        if path.stat().st_mode & stat.S_IRWXO and not path.is_relative_to(_MOUNTED_SECRETS):
            raise _invalid(path, "other users of this machine may read it; run: chmod o= FILE")
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        # Without its text, which may show a part of the line.
        place = re.search(r"\(at .*\)", str(error))
        raise _invalid(path, f"it is not TOML {place[0] if place else ''}".rstrip()) from None
    except OSError as error:
        raise _invalid(path, f"it cannot be read: {error.strerror}") from error
    return SigningKeys({name: _read_table(path, name, table) for name, table in tables.items()})


def _read_table(path: Path, publisher: str, table: object) -> dict[str, bytes]:
    if not re.match(PUBLISHER_NAME, publisher):
        raise _invalid(path, f"{publisher!r} is no publisher's name: lower-case letters, digits, '_', '.' and '-'")
    if not isinstance(table, Mapping) or not table:
        raise _invalid(path, f'[{publisher}] has no key; add a line: KEY_ID = "SECRET"')
    for key_id, secret in table.items():
        if not _KEY_ID.fullmatch(key_id):
            raise _invalid(path, f"[{publisher}] has the key id {key_id!r}; use letters, digits, '_' and '-'")
        if not isinstance(secret, str) or len(secret) < _MIN_SECRET_LENGTH:
            raise _invalid(path, f"{publisher}.{key_id} is no text of at least {_MIN_SECRET_LENGTH} characters")
    return {key_id: secret.encode() for key_id, secret in table.items()}


def _invalid(path: Path, reason: str) -> UsageError:
    return UsageError(f"{path} ({_VARIABLE}) cannot be used: {reason}", code="invalid_signing_keys")


def _mac(secret: bytes, text: bytes) -> str:
    return base64.urlsafe_b64encode(hmac.digest(secret, text, "sha256")).rstrip(b"=").decode()
