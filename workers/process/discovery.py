"""Discover agents: import the modules that PETIOLE_AGENTS names, and collect their agents.

PETIOLE_AGENTS is a list of modules, separated by commas. A package stands for itself and its direct modules. To add
agents of your own to the bundled ones: PETIOLE_AGENTS=petiole.workers.agents,shop.agents
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from types import ModuleType

from petiole.events.errors import unknown_agent
from petiole.tasks import Agent
from petiole.workers.settings import WorkerSettings


def configured_agents() -> list[Agent]:
    """Load the agents of PETIOLE_AGENTS, in that order. Raises UsageError (unknown_agent)."""
    return load_agents(WorkerSettings().agents)


def load_agents(names: Iterable[str]) -> list[Agent]:
    """Load the agents of these modules and packages.

    Raises:
        UsageError: unknown_agent, if a module does not exist, contains no agent, or contains a second agent of a name.
    """
    loaded: dict[str, Agent] = {}
    for name in names:
        for agent in _agents_of(name):
            if loaded.setdefault(agent.name, agent) is not agent:
                raise unknown_agent(name, f"another agent is named {agent.name!r} too; rename one")
    return list(loaded.values())


def _agents_of(name: str) -> list[Agent]:
    agents = [agent for module in _modules(name) for agent in _agents_in(module)]
    if not agents:
        raise unknown_agent(name, "it contains no Agent")
    return agents


def _modules(name: str) -> Iterator[ModuleType]:
    module = _import(name)
    yield module
    for child in pkgutil.iter_modules(getattr(module, "__path__", []), f"{name}."):
        yield _import(child.name)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # The module exists, and one of its own imports is missing: Python's message names that import.
        if error.name is None or not name.startswith(error.name):
            raise
        raise unknown_agent(name, "the module does not exist") from error


def _agents_in(module: ModuleType) -> list[Agent]:
    return [member for member in vars(module).values() if isinstance(member, Agent)]
