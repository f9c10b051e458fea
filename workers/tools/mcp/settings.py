"""Settings of MCP servers: a file in the shape that MCP clients share, JSON or TOML.

    {"mcpServers": {"files": {"command": "npx", "args": ["-y", "…"], "env": {"TOKEN": "${FILES_TOKEN}"},
                              "petiole": {"timeout_s": 20, "needs_approval": ["write_file"]}},
                    "search": {"url": "https://…/mcp", "headers": {"Authorization": "Bearer ${SEARCH_TOKEN}"}}}}

What is ours stands under `petiole`; what other clients keep there is left alone. `${NAME}` is read from the
environment.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from petiole.events.errors import NotConfigured
from petiole.workers.tools.tool_policy import DEFAULT_TOOL_TIMEOUT_S, MAX_TOOL_TIMEOUT_S, OnUnfinishedCall

COMPONENT = "the MCP servers"


def _expand_environment(value: object) -> object:
    """Put values of the environment in the place of their names."""
    if not isinstance(value, str):
        return value
    for name in re.findall(r"\$\{(\w+)\}", value):
        if name not in os.environ:
            raise ValueError(f"names ${{{name}}}, which is not in the environment; set it")
        value = value.replace(f"${{{name}}}", os.environ[name])
    return value


ExpandedString = Annotated[str, BeforeValidator(_expand_environment)]
ServerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class ServerToolPolicy(BaseModel):
    """On what terms a server's tools are run; `needs_approval` is of all its tools, or of those that are named."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    timeout_s: Annotated[float, Field(gt=0, le=MAX_TOOL_TIMEOUT_S)] = DEFAULT_TOOL_TIMEOUT_S
    needs_approval: bool | tuple[str, ...] = False
    on_unfinished: OnUnfinishedCall = "repeat"
    guarded: bool = False


class ServerSettings(BaseModel):
    """How a server is reached: by a process of ours (`command`), or over HTTP (`url`)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    command: ExpandedString | None = None
    args: tuple[ExpandedString, ...] = ()
    env: dict[str, ExpandedString] = Field(default_factory=dict)
    cwd: str | None = None
    url: ExpandedString | None = None
    headers: dict[str, ExpandedString] = Field(default_factory=dict)
    disabled: bool = False
    petiole: ServerToolPolicy = ServerToolPolicy()

    @model_validator(mode="after")
    def _is_reached_in_one_way(self) -> ServerSettings:
        if (self.command is None) == (self.url is None):
            raise ValueError("needs either a command or a url")
        return self


class _ServersFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    mcpServers: dict[ServerName, ServerSettings]  # noqa: N815 - as the file has it


def read_servers(path: Path) -> Mapping[str, ServerSettings]:
    """Read which servers there are, without those that are disabled. Raises NotConfigured, which names the place."""
    try:
        text = path.read_text(encoding="utf-8")
        said: Any = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
        servers = _ServersFile.model_validate(said).mcpServers
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise NotConfigured(COMPONENT, f"{path}: {place}: {first['msg']}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise NotConfigured(COMPONENT, f"{path} cannot be read: {error}; check PETIOLE_MCP_SERVERS") from error
    return {name: server for name, server in servers.items() if not server.disabled}
