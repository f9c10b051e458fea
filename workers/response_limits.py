"""Limits of HTTP responses: a provider or a tool server may answer with any number of bytes, compressed or not.

A response is not decompressed: a few bytes can stand for gigabytes. It is read up to a limit; an event stream may be
endless, so there the limit is that of one event.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2

MAX_RESPONSE_BYTES = 33_554_432
"""The largest response, or event of a stream. Its text ends in an event, whose limit is lower."""

REQUEST_HEADERS = {"accept-encoding": "identity"}

_EVENT_STREAM = "text/event-stream"


class ResponseRefused(httpx2.DecodingError, ValueError):  # noqa: N818 - named as Petiole's own errors
    """A response that is compressed, or too large."""


async def limit_response(response: httpx2.Response) -> None:
    """Limit what is read of a response: a hook of an httpx2.AsyncClient. Raises ResponseRefused."""
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":
        await response.aclose()
        raise ResponseRefused(f"the response is compressed ({encoding[:50]}), though it was asked not to be")
    is_stream = response.headers.get("content-type", "").startswith(_EVENT_STREAM)
    response.stream = _LimitedStream(response.stream, MAX_RESPONSE_BYTES, is_event_stream=is_stream)


class _LimitedStream(httpx2.AsyncByteStream):
    def __init__(self, stream: Any, limit_bytes: int, *, is_event_stream: bool) -> None:
        self._stream = stream
        self._limit_bytes = limit_bytes
        self._is_event_stream = is_event_stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            ended = chunk.rfind(b"\n") + 1 if self._is_event_stream else 0
            size = len(chunk) - ended if ended else size + len(chunk)
            if size > self._limit_bytes:
                raise ResponseRefused(f"the response has more than {self._limit_bytes:,} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
