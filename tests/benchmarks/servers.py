"""Valkey servers of the benchmark: each on a free port of 127.0.0.1, empty, and gone at the end of the block."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis

from petiole.workers.process.embedded_broker import server_binary
from tests.support.processes import free_ports

_START_S = 10


@contextmanager
def fresh_server(*, appends: bool = False) -> Iterator[str]:
    """Run an empty server and yield its URL; `appends` makes it write the append-only file every second."""
    (port,) = free_ports(1)
    options = {"port": port, "bind": "127.0.0.1", "save": "", "appendonly": "yes" if appends else "no"}
    options |= {"appendfsync": "everysec", "maxmemory-policy": "noeviction", "logfile": "valkey.log"}
    command = [str(server_binary()), *(text for name, value in options.items() for text in (f"--{name}", str(value)))]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        try:
            url = f"redis://127.0.0.1:{port}/0"
            _wait_until_it_replies(url, Path(folder) / "valkey.log")
            yield url
        finally:
            process.kill()
            process.wait()


def _wait_until_it_replies(url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    with redis.Redis.from_url(url) as client:
        while time.monotonic() < deadline:
            with suppress(redis.ConnectionError):
                client.ping()
                return
            time.sleep(0.01)
    raise TimeoutError(f"the server did not reply within {_START_S} s: {log.read_text()[-500:]}")
