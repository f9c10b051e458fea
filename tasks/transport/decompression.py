"""Decompression with a limit: a few bytes of a compressed message can stand for gigabytes.

Kombu decompresses a message's body when it receives it, in all transports, by decoders that it keeps for the whole
process. A worker replaces them by decoders that stop at a limit. The message becomes a dead letter.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any

from kombu import compression as kombu_compression

compression: Any = kombu_compression  # the stubs describe it wrongly

_LZMA_MEMORY_BYTES = 128 * 1_048_576

# Each stops at a length, and says whether it has reached the end.
_DECODERS: dict[str, Callable[[], Any]] = {
    "application/x-gzip": zlib.decompressobj,
    "application/x-bz2": bz2.BZ2Decompressor,
    "application/x-lzma": lambda: lzma.LZMADecompressor(memlimit=_LZMA_MEMORY_BYTES),
}


if hasattr(compression, "zstd"):  # Python 3.14, or a package
    _DECODERS["application/zstd"] = compression.zstd.ZstdDecompressor


def limit_decompression(max_bytes: int) -> None:
    """Refuse messages of this process that have more bytes when they are decompressed. Safe to repeat."""
    for content_type in compression.encoders():
        encoder, _ = compression.get_encoder(content_type)
        make = _DECODERS.get(content_type)
        decoder = _limited(make, max_bytes) if make else _refuse(content_type)
        compression.register(encoder, decoder, content_type)


def _limited(make: Callable[[], Any], max_bytes: int) -> Callable[[bytes], bytes]:
    def decompress(data: bytes) -> bytes:
        decoder = make()
        text: bytes = decoder.decompress(data, max_bytes + 1)
        if len(text) > max_bytes:
            raise ValueError(
                f"the message has {len(data):,} bytes compressed and more than {max_bytes:,} decompressed; send a "
                "reference to the large part, or raise PETIOLE_MAX_EVENT_BYTES"
            )
        if not decoder.eof:
            raise ValueError("the compressed message ends early")
        return text

    return decompress


def _refuse(content_type: str) -> Callable[[bytes], bytes]:
    def decompress(_: bytes) -> bytes:
        raise ValueError(f"messages with the compression {content_type} are refused; use gzip, bzip2, lzma or zstd")

    return decompress
