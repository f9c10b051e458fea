"""Lua scripts, one file for each atomic step. The comment at the top states what the step does and returns."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, TypeAlias

from hiredis import pack_command
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import NoScriptError, ResponseError

Argument: TypeAlias = str | bytes | int

_COMMENT = re.compile(r"^\s*--.*\n", re.MULTILINE)


def load_script(name: str, package: str = __package__) -> str:
    """Read a script of a package, once, without its comment lines; `name` is without the suffix."""
    return _read(name, package)


@cache
def _read(name: str, package: str) -> str:
    return _COMMENT.sub("", (files(package) / f"{name}.lua").read_text(encoding="utf-8"))


class Script:
    """A script of several files, called with arguments and without keys.

    A call is written at once to one of the client's own connections: redis-py's work for a command takes as long as the
    server's for a publish.
    """

    def __init__(self, client: Redis, *names: str) -> None:
        self._client = client
        self._text = "".join(map(load_script, names))
        # Redis names scripts by it.
        self._sha = sha1(self._text.encode(), usedforsecurity=False).hexdigest().encode()

    def __call__(self, arguments: Iterable[Argument]) -> Any:
        """Call the script. Raises redis-py's errors."""
        values = list(arguments)
        try:
            return self._execute(b"EVALSHA", self._sha, 0, *values)
        except NoScriptError:
            return self._execute(b"EVAL", self._text, 0, *values)

    def add_to(self, pipeline: Pipeline, arguments: Iterable[Argument]) -> None:
        """Add a call to a pipeline."""
        pipeline.eval(self._text, 0, *arguments)

    def _execute(self, *command: Argument) -> Any:
        pool = self._client.connection_pool
        connection: Any = pool.get_connection()
        is_complete = False
        try:
            connection.send_packed_command([pack_command(command)])  # type: ignore[arg-type]  # its stub describes a tuple of one
            reply = connection.read_response()
        except ResponseError:
            is_complete = True
            raise
        else:
            is_complete = True
            return reply
        finally:
            if not is_complete:
                # Its reply may still come.
                connection.disconnect()
            pool.release(connection)
