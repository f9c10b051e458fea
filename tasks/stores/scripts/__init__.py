"""Lua scripts, one file for each atomic step. The comment at the top states what the step does and returns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from redis import Redis

_COMMENT = re.compile(r"^\s*--.*\n", re.MULTILINE)


def load_script(name: str, package: str = __package__) -> str:
    """Read a script of a package, without its comment lines; `name` is without the suffix."""
    return _COMMENT.sub("", (files(package) / f"{name}.lua").read_text(encoding="utf-8"))


class Script:
    """A script without keys, of several files. It is called without redis-py's work for each command."""

    def __init__(self, client: Redis, *names: str) -> None:
        self._client = client
        self._script = client.register_script("".join(map(load_script, names)))

    def __call__(self, arguments: Sequence[str | bytes | int], client: Redis | None = None) -> Any:
        """Call the script, or add the call to a pipeline. Raises redis-py's errors."""
        return self._script(args=list(arguments), client=client)
