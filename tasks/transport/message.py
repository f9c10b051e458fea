"""Message: kombu's, but a message with invalid fields gets an error instead of raising one.

If a message's text is JSON but its body is not base64 or its headers are a list, kombu raises in the worker's event
loop. Here the error is stored in `errors`, as kombu does if a body cannot be decompressed, and the message is passed
to its consumer's `on_decode_error`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from kombu.transport import virtual

DECODE_ERRORS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""The errors of kombu's JSON decoder; its hook for typed values calls constructors that the text names."""

_TYPES: dict[str, Any] = {
    "body": (str, type(None)),
    "headers": (dict, type(None)),
    "content-type": (str, type(None)),
    "content-encoding": (str, type(None)),
}


class Message(virtual.Message):
    """A message; `errors` holds the error if a field is invalid."""

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
    """Keep the delivery tag, which identifies the message at the broker, and the valid fields."""
    properties = payload["properties"]
    valid = {"delivery_tag": properties["delivery_tag"]}
    if isinstance(properties.get("delivery_info"), dict):
        valid["delivery_info"] = properties["delivery_info"]
    texts = {name: payload[name] for name in ("content-type", "content-encoding") if isinstance(payload.get(name), str)}
    headers = payload.get("headers")
    return {"properties": valid, "headers": headers if isinstance(headers, dict) else {}, **texts}
