"""Brokers of one's own, to be stopped, killed, frozen and filled."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import kombu
import psutil
import redis
from amqp.exceptions import AMQPError

from petiole.workers.process import embedded_broker
from tests.support.polling import wait_until
from tests.support.processes import free_ports, holding_still

RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


class RabbitServer:
    """Debian's RabbitMQ under a folder of its own, on loopback only."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._node_port, self._distribution_port, self._names_port = free_ports(3)
        self._names: psutil.Popen | None = None
        self._server: psutil.Popen | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self._node_port}//"

    def start(self) -> None:
        """Start the server, and before it the process that Erlang nodes find each other by, or it starts its own."""
        self._names = self._run("epmd", "-port", str(self._names_port), "-address", "127.0.0.1")
        # The script, not the command of that name: that one changes to a user of its own.
        self._server = self._run(str(RABBITMQ))
        wait_until(self._answers, 60, self.log)

    def restart(self) -> None:
        """Let the server end by itself, and start it again."""
        assert self._server is not None
        with suppress(psutil.NoSuchProcess):
            for process in self._server.children():
                process.terminate()
        self._server.wait(timeout=30)
        self.kill()
        self.start()

    def kill(self) -> None:
        """End all processes at once. The data stay."""
        for leader in filter(None, (self._server, self._names)):
            with suppress(psutil.NoSuchProcess):
                for process in (*leader.children(recursive=True), leader):
                    process.kill()
            leader.wait(timeout=20)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let the server hold still: connections stay open, and nothing answers."""
        assert self._server is not None
        processes = self._server.children(recursive=True)
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    def log(self) -> str:
        """Read the last words of the server."""
        return (self._home / "output.log").read_text()[-3000:]

    def _run(self, *command: str) -> psutil.Popen:
        with (self._home / "output.log").open("ab") as log:
            return psutil.Popen(
                command, env=self._environment(), cwd=self._home, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _answers(self) -> bool:
        assert self._server is not None
        assert self._server.poll() is None, self.log()
        try:
            with kombu.Connection(self.url, connect_timeout=2) as connection:
                connection.connect()
        except (OSError, AMQPError):
            return False
        return True

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self._home),  # of the cookie
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._names_port),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(self._home / "rabbitmq"),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._home / "plugins"),
            "RABBITMQ_LOG_BASE": str(self._home / "log"),
            "RABBITMQ_MNESIA_BASE": str(self._home / "data"),
            "RABBITMQ_NODENAME": f"petiole-{self._node_port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self._node_port),
            # Loopback for the distribution too; and no spinning while idle, for the sake of small machines.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none",
        }


class Server:
    """A broker of one's own that is stopped, killed, frozen and filled; what it acknowledged is on disk."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.url = ""

    def start(self) -> None:
        """Start it, with the data and the address that it had."""
        url = embedded_broker.start_broker(self.home).url
        assert url == (self.url or url)
        self.url = url
        with self.client() as client:
            client.config_set("appendfsync", "always")

    def stop(self) -> None:
        """Let it end in order. Safe to repeat."""
        embedded_broker.stop_broker(self.home)

    def kill(self) -> None:
        """End it at once."""
        process = self._process()
        process.kill()
        process.wait(timeout=10)

    def client(self) -> redis.Redis:
        """Connect past everything."""
        return redis.Redis.from_url(self.url, decode_responses=True, socket_timeout=10)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it hold still, with its connections open, for as long as the block."""
        with holding_still(self._process().pid):
            yield

    @contextmanager
    def full(self) -> Iterator[None]:
        """Let it have no memory left, for as long as the block."""
        with self.client() as client:
            client.config_set("maxmemory", 1)
            try:
                yield
            finally:
                client.config_set("maxmemory", 0)

    def _process(self) -> psutil.Process:
        return psutil.Process(int((self.home / "valkey" / "valkey.pid").read_text()))
