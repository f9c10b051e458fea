"""Two servers of one's own, one of which follows the other, and three Sentinels that watch them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis

from petiole.workers.process.embedded_broker import server_binary
from tests.support.polling import wait_until
from tests.support.processes import free_ports, holding_still

_SERVER = """\
bind 127.0.0.1
port {port}
dir {home}
appendonly yes
appendfsync always
save ""
maxmemory-policy noeviction
repl-diskless-sync-delay 0
repl-ping-replica-period 1
min-replicas-to-write 1
min-replicas-max-lag 2
"""

_SENTINEL = """\
bind 127.0.0.1
port {port}
dir {home}
sentinel monitor events 127.0.0.1 {primary} 2
sentinel down-after-milliseconds events 1000
sentinel failover-timeout events 6000
sentinel parallel-syncs events 1
"""


class Pair:
    """Two servers, by port; Sentinel calls them `events`."""

    def __init__(self, home: Path) -> None:
        self._home = home
        first, second, *self._sentinels = free_ports(5)
        self.ports = (first, second)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """The address by way of Sentinel."""
        hosts = ";".join(f"sentinel://127.0.0.1:{port}" for port in self._sentinels)
        return f"{hosts}/0?master_name=events"

    def start(self) -> None:
        """Start all, and wait until the second server follows the first and each Sentinel knows both."""
        first, second = self.ports
        self.start_server(first)
        self.start_server(second, "--replicaof", "127.0.0.1", str(first))
        for port in self._sentinels:
            self._run(port, _SENTINEL.format(port=port, home=self._home_of(port), primary=first), "--sentinel")
        wait_until(self.is_followed, 20, self.log)
        wait_until(lambda: all(map(self._is_watching, self._sentinels)), 20, self.log)

    def start_server(self, port: int, *options: str) -> None:
        """Start one server with the data that it had."""
        self._run(port, _SERVER.format(port=port, home=self._home_of(port)), *options)
        wait_until(lambda: bool(self._info(port)), 20, self.log)

    def primary(self) -> int:
        """Return the port of the server that takes writes, as the Sentinels know it."""
        for port in self._sentinels:
            with suppress(redis.RedisError), redis.Redis(port=port) as client:
                return int(client.sentinel_get_master_addr_by_name("events")[1])
        return self.ports[0]

    def is_followed(self) -> bool:
        """Tell whether the other server has what the primary has, but for what is under way; both say so."""
        primary = self.primary()
        (other,) = (port for port in self.ports if port != primary)
        listed: Any = self._info(primary).get("slave0", {})
        follower = self._info(other)
        state = [listed.get("state"), follower.get("master_port"), follower.get("master_link_status")]
        return state == ["online", primary, "up"]

    def hold_writes(self, for_s: float = 8.0) -> None:
        """Let the primary take no more writes for some seconds, and wait until the other has all that it took."""
        with self.client(self.primary()) as client:
            client.execute_command("CLIENT", "PAUSE", int(for_s * 1_000), "WRITE")
            wait_until(lambda: _has_all(client.info("replication")), 6, self.log)

    def kill(self, port: int) -> None:
        """End one server at once."""
        self._processes[port].kill()
        self._processes[port].wait(timeout=10)

    def be_patient(self, seconds: float) -> None:
        """Let the Sentinels take a server for down only when it has not answered for so long."""
        for port in self._sentinels:
            with redis.Redis(port=port) as client:
                client.execute_command("SENTINEL", "SET", "events", "down-after-milliseconds", int(seconds * 1_000))

    def demote(self) -> None:
        """Let the Sentinels exchange the servers, both of which run."""
        with redis.Redis(port=self._sentinels[0]) as client:
            client.execute_command("SENTINEL", "FAILOVER", "events")

    @contextmanager
    def frozen(self, port: int) -> Iterator[None]:
        """Let one server hold still, with its connections open, for as long as the block."""
        with holding_still(self._processes[port].pid):
            yield

    def stop(self) -> None:
        """End all of them."""
        for process in self._processes.values():
            process.kill()
            process.wait(timeout=10)

    def client(self, port: int) -> redis.Redis:
        """Connect to one server past Sentinel."""
        return redis.Redis(port=port, decode_responses=True, socket_timeout=5)

    def log(self) -> str:
        """Read the last words of all."""
        return "\n".join(path.read_text()[-1500:] for path in sorted(self._home.glob("*/output.log")))

    def _run(self, port: int, settings: str, *options: str) -> None:
        home = self._home_of(port)
        home.mkdir(exist_ok=True)
        config = home / "settings.conf"
        if not config.exists() or "--sentinel" not in options:
            config.write_text(settings)
        with (home / "output.log").open("ab") as log:
            self._processes[port] = subprocess.Popen(
                [server_binary(), str(config), *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _home_of(self, port: int) -> Path:
        return self._home / str(port)

    def _info(self, port: int) -> dict[str, object]:
        with suppress(redis.RedisError), self.client(port) as client:
            return dict(client.info("replication"))
        return {}

    def _is_watching(self, port: int) -> bool:
        with suppress(redis.RedisError), redis.Redis(port=port, decode_responses=True) as client:
            state = client.sentinel_master("events")
            return (state["num-slaves"], state["num-other-sentinels"]) == (1, 2)
        return False


def _has_all(state: Any) -> bool:
    return int(state.get("slave0", {}).get("offset", -1)) == int(state["master_repl_offset"])


@contextmanager
def paired_servers(home: Path) -> Iterator[Pair]:
    """Run them for as long as the block."""
    home.mkdir()
    pair = Pair(home)
    try:
        pair.start()
        yield pair
    finally:
        pair.stop()
