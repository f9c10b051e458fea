"""Decompression with a limit."""

from __future__ import annotations

import bz2
import lzma
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import kombu.compression
import pytest

from petiole.tasks.transport.decompression import limit_decompression

compression: Any = kombu.compression  # the stubs leave its registries out

TYPES = [("gzip", zlib.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)]


@pytest.fixture(autouse=True)
def restore_decoders() -> Iterator[None]:
    before = dict(compression._decoders)
    yield
    compression._decoders.update(before)


@pytest.mark.parametrize(("name", "compress"), TYPES)
def test_a_message_within_the_limit_is_decompressed(name: str, compress: Callable[[bytes], bytes]) -> None:
    limit_decompression(1_000)

    assert compression.decompress(compress(b"x" * 1_000), name) == b"x" * 1_000


@pytest.mark.parametrize(("name", "compress"), TYPES)
def test_decompression_stops_at_the_limit(name: str, compress: Callable[[bytes], bytes]) -> None:
    limit_decompression(1_000_000)
    bomb = compress(b" " * 100_000_000)

    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="more than 1,000,000 decompressed"):
            compression.decompress(bomb, name)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 30_000_000


@pytest.mark.parametrize(("name", "compress"), TYPES)
def test_a_message_that_ends_early_is_refused(name: str, compress: Callable[[bytes], bytes]) -> None:
    limit_decompression(1_000)

    with pytest.raises(ValueError, match="ends early"):
        compression.decompress(compress(b"x" * 500)[:-5], name)


def test_a_compression_without_a_limit_is_refused() -> None:
    compression.register(bytes, bytes, "application/x-strange")
    try:
        limit_decompression(1_000)

        with pytest.raises(ValueError, match="application/x-strange are refused"):
            compression.decompress(b"x", "application/x-strange")
    finally:
        del compression._encoders["application/x-strange"], compression._decoders["application/x-strange"]
