"""Settings of MCP servers: a JSON or TOML file in the `mcpServers` format that MCP clients share.

    {"mcpServers": {"files": {"command": "npx", "args": ["-y", "…"], "env": {"TOKEN": "${FILES_TOKEN}"},
                              "petiole": {"timeout_s": 20, "needs_approval": ["write_file"]}},
                    "search": {"url": "https://…/mcp", "headers": {"Authorization": "Bearer ${SEARCH_TOKEN}"}}}}

`petiole` has the options of Petiole; options of other clients are ignored. `${NAME}` is replaced by the environment
variable.
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
    """Replace each `${NAME}` by the environment variable."""
    if not isinstance(value, str):
        return value
    for name in re.findall(r"\$\{(\w+)\}", value):
        if name not in os.environ:
            raise ValueError(f"the environment variable {name} is not set; set it")
        value = value.replace(f"${{{name}}}", os.environ[name])
    return value


ExpandedString = Annotated[str, BeforeValidator(_expand_environment)]
ServerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class ServerToolPolicy(BaseModel):
    """The tool policy of a server. `needs_approval` and `repeatable` apply to all tools, or to the ones they list."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    timeout_s: Annotated[float, Field(gt=0, le=MAX_TOOL_TIMEOUT_S)] = DEFAULT_TOOL_TIMEOUT_S
    needs_approval: bool | tuple[str, ...] = False
    repeatable: bool | tuple[str, ...] = False
    on_unfinished: OnUnfinishedCall = "repeat"
    guarded: bool = False


class ServerSettings(BaseModel):
    """How to connect to a server: start it as a child process (`command`), or use HTTP (`url`)."""

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
    def _validate_address(self) -> ServerSettings:
        if (self.command is None) == (self.url is None):
            raise ValueError("give either a command or a url")
        return self


class _ServersFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    mcpServers: dict[ServerName, ServerSettings]  # noqa: N815 - the key in the file


def read_servers(path: Path) -> Mapping[str, ServerSettings]:
    """Read the settings of all servers that are not disabled. Raises NotConfigured with the location of the error."""
    try:
        text = path.read_text(encoding="utf-8")
        document: Any = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
        servers = _ServersFile.model_validate(document).mcpServers
    except ValidationError as error:
        problem = error.errors()[0]
        location = ".".join(str(step) for step in problem["loc"])
        raise NotConfigured(COMPONENT, f"{path}: {location}: {problem['msg']}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise NotConfigured(COMPONENT, f"{path} cannot be read: {error}; check PETIOLE_MCP_SERVERS") from error
    return {name: server for name, server in servers.items() if not server.disabled}
