"""The message: kombu's, where its parts are of the types they should be; otherwise one that says what is wrong.

Kombu raises in the worker's event loop where a message's text is JSON and yet no message: a body that is no base64,
headers that are a list. Here such a message has its `errors`, as kombu keeps those of a body that cannot be
decompressed, and reaches its consumer's `on_decode_error` like any other that cannot be decoded.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from kombu.transport import virtual

DECODE_ERRORS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What reading JSON by kombu raises, whose hook for typed values calls whatever the text names."""

_TYPES: dict[str, Any] = {
    "body": (str, type(None)),
    "headers": (dict, type(None)),
    "content-type": (str, type(None)),
    "content-encoding": (str, type(None)),
}


class Message(virtual.Message):
    """A message as it came, readable or not."""

    _raw: Any
    errors: Any
    body: Any

    def __init__(self, payload: Any, channel: Any | None = None, **options: Any) -> None:
        try:
            _check(payload)
            super().__init__(payload, channel=channel, **options)
        except DECODE_ERRORS:
            self.errors = [sys.exc_info()]
            super().__init__(_drop_invalid_fields(payload), channel=channel, **options)
            self.body = str(payload.get("body") or "").encode("utf-8", "surrogatepass")
            self._raw = payload


def _check(payload: Mapping[str, Any]) -> None:
    for name, types in _TYPES.items():
        if not isinstance(payload.get(name), types):
            raise TypeError(f"the {name} of a message must not be a {type(payload[name]).__name__}")
    if not isinstance(payload["properties"].get("delivery_info", {}), dict):
        raise TypeError("the delivery_info of a message must be an object")


def _drop_invalid_fields(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the tag, by which the broker knows the message, and what else is as it should be."""
    properties = payload["properties"]
    kept = {"delivery_tag": properties["delivery_tag"]}
    if isinstance(properties.get("delivery_info"), dict):
        kept["delivery_info"] = properties["delivery_info"]
    told = {name: payload[name] for name in ("content-type", "content-encoding") if isinstance(payload.get(name), str)}
    headers = payload.get("headers")
    return {"properties": kept, "headers": headers if isinstance(headers, dict) else {}, **told}
