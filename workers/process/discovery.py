"""Loading: which agents this process knows.

PETIOLE_AGENTS names modules, separated by commas; a package stands for all of its modules. To add agents of your own to
Petiole's: PETIOLE_AGENTS=petiole.workers.agents,shop.agents
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
    """Load the agents that PETIOLE_AGENTS names, in that order. Raises UsageError (unknown_agent)."""
    return load_agents(WorkerSettings().agents)


def load_agents(names: Iterable[str]) -> list[Agent]:
    """Load the agents of these modules and packages.

    Raises UsageError (unknown_agent) for a module without any, or two of a name.
    """
    loaded: dict[str, Agent] = {}
    for name in names:
        for agent in _agents_of(name):
            if loaded.setdefault(agent.name, agent) is not agent:
                raise unknown_agent(name, f"an agent named {agent.name!r} was loaded before; rename one")
    return list(loaded.values())


def _agents_of(name: str) -> list[Agent]:
    found = [agent for module in _modules(name) for agent in _agents_in(module)]
    if not found:
        raise unknown_agent(name, "it holds no Agent")
    return found


def _modules(name: str) -> Iterator[ModuleType]:
    module = _import(name)
    yield module
    for child in pkgutil.iter_modules(getattr(module, "__path__", []), f"{name}."):
        yield _import(child.name)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A module that exists but lacks one of its own imports is that module's matter, and says so itself.
        if error.name is None or not name.startswith(error.name):
            raise
        raise unknown_agent(name, "there is no such module") from error


def _agents_in(module: ModuleType) -> list[Agent]:
    return [member for member in vars(module).values() if isinstance(member, Agent)]
