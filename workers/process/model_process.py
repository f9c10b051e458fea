"""A model in a process of its own, which all workers of this user on this machine share.

    worker ──┐                                            ModelProcess("my.models:load_model", "my model")
    worker ──┼── Unix socket ──▶ model_server.py, one process per model
    worker ──┘

The first process that asks starts the server; it ends with the last process that is connected to it. Nothing is loaded
or connected before the first request, so nothing is before a fork. The function that is named loads the model, and
returns a function from the bytes of a request to those of its response; the server calls it for one request at a time.

    <temporary folder>/petiole-models-<user>/<key>.sock      the server's socket
                                             <key>.lock      locked while a server is started or ends
                                             <key>.log       what the last server wrote
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from petiole.events.errors import ProviderUnavailable, UsageError

MAX_MESSAGE_BYTES: Final = 64 * 1_048_576
RESPONSE_TIMEOUT_S: Final = 300.0
"""Longer than the server's own limit for a request, after which the server ends itself."""

_START_TIMEOUT_S: Final = 120.0
_POLL_S: Final = 0.02
_MAX_TRIES: Final = 3
_MAX_REASON_LENGTH: Final = 300
_LENGTH: Final = struct.Struct(">I")


class ModelProcess:
    """The connection of this process to a model. Threads may use it at the same time; one waits for the other."""

    def __init__(self, function: str, name: str) -> None:
        """Name the function that loads the model, `module:function`, and the model. Starts and connects nothing."""
        self._function = function
        self._name = name
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._owner = 0

    def ask(self, request: bytes) -> bytes:
        """Return the model's response. Starts the server if none runs. Raises ProviderUnavailable."""
        with self._lock:
            tries = 0
            while True:
                tries += 1
                try:
                    return self._exchange(request)
                except TimeoutError as error:
                    raise self._unavailable(f"no response within {RESPONSE_TIMEOUT_S:g} s") from error
                except (OSError, EOFError) as error:
                    if tries == _MAX_TRIES:
                        raise self._unavailable("its process ended" + self._last_words()) from error
                # The server has ended, or is about to and may accept one more connection: killed, or with its last
                # other client.
                self._drop()
                time.sleep(_POLL_S)

    def close(self) -> None:
        """Disconnect. The next request connects again."""
        with self._lock:
            self._drop()

    def _exchange(self, request: bytes) -> bytes:
        if self._connection is None or self._owner != os.getpid():  # a fork must not share its parent's connection
            self._connection, self._owner = self._connect(), os.getpid()
        send_message(self._connection, request)
        return receive_message(self._connection)

    def _connect(self) -> socket.socket:
        files = ModelFiles.of(self._function)
        if (connection := files.connect()) is not None:
            return connection
        with files.locked():
            return files.connect() or self._start(files)

    def _start(self, files: ModelFiles) -> socket.socket:
        """Start the server and connect. The lock is held."""
        files.socket.unlink(missing_ok=True)
        with files.log.open("wb") as log:
            command = [sys.executable, "-m", "petiole.workers.process.model_server", self._function]
            server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        _started.append(server)
        deadline = time.monotonic() + _START_TIMEOUT_S
        while (connection := files.connect()) is None:
            if server.poll() is not None:
                raise EOFError
            if time.monotonic() > deadline:
                server.kill()
                server.wait()
                raise self._unavailable(f"it was not ready within {_START_TIMEOUT_S:g} s")
            time.sleep(_POLL_S)
        return connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _unavailable(self, reason: str) -> ProviderUnavailable:
        self._drop()
        return ProviderUnavailable(self._name, reason)

    def _last_words(self) -> str:
        log = ModelFiles.of(self._function).log
        lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
        return f": {lines[-1][:_MAX_REASON_LENGTH]}" if lines else ""


_started: Final[list[subprocess.Popen[bytes]]] = []
"""Servers that this process started: kept, because Python warns of a child that is forgotten before it ends."""


class ModelFiles:
    """The files of a model's server."""

    def __init__(self, folder: Path, key: str) -> None:
        self.socket = folder / f"{key}.sock"
        self.log = folder / f"{key}.log"
        self._lock = folder / f"{key}.lock"

    @classmethod
    def of(cls, function: str) -> ModelFiles:
        """Return the files for a model, by this Python and by the version of its module. Raises UsageError."""
        module, _, name = function.partition(":")
        found = importlib.util.find_spec(module)
        if found is None or found.origin is None:
            raise UsageError(f"there is no module {module!r} with a model")
        version = Path(found.origin).stat().st_mtime_ns
        key = hashlib.sha256(repr((sys.executable, found.origin, name, version)).encode()).hexdigest()[:16]
        return cls(_private_folder(), key)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock, which whoever starts or ends the server holds."""
        with self._lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def connect(self) -> socket.socket | None:
        """Connect to the server; None if there is none."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(RESPONSE_TIMEOUT_S)
        try:
            connection.connect(str(self.socket))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            return None
        return connection


def _private_folder() -> Path:
    """Return the folder of the sockets, which only this user can enter. Raises UsageError."""
    folder = Path(tempfile.gettempdir()) / f"petiole-models-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or folder.is_symlink():
        raise UsageError(f"{folder} can be used by others; remove it, or set TMPDIR to a folder of your own")
    return folder


def send_message(connection: socket.socket, message: bytes) -> None:
    """Send a message: its length in four bytes, then its bytes."""
    connection.sendall(_LENGTH.pack(len(message)) + message)


def receive_message(connection: socket.socket) -> bytes:
    """Receive a message. Raises EOFError if the other side has ended, or sends a message that is too long."""
    (length,) = _LENGTH.unpack(_receive_exactly(connection, _LENGTH.size))
    if length > MAX_MESSAGE_BYTES:
        raise EOFError(f"a message of {length} bytes")
    return _receive_exactly(connection, length)


def _receive_exactly(connection: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        data = connection.recv(min(size - len(received), 1_048_576))
        if not data:
            raise EOFError
        received += data
    return bytes(received)
