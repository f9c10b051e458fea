"""Lazy names of a package: each is imported when it is first used, so that a program loads only what it needs.

    if TYPE_CHECKING:
        from petiole.tasks.agents import Agent

    __all__ = ["Agent"]

    __getattr__, __dir__ = lazy_names(__name__, {"petiole.tasks.agents": "Agent"})

A package with lazy names declares each of them for type checkers, too; tests/architecture compares the two.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module


def lazy_names(
    package: str, names: Mapping[str, str], modules: Iterable[str] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Make the `__getattr__` and the `__dir__` of a package whose names are imported when they are first used.

    Args:
        package: the package's `__name__`.
        names: of each module, the names that it defines, separated by spaces.
        modules: full names of modules that are names of the package themselves.
    """
    origins = {name: (module, name) for module, defined in names.items() for name in defined.split()}
    origins |= {module.rpartition(".")[2]: (module, "") for module in modules}
    namespace = vars(sys.modules[package])

    def get_name(name: str) -> object:
        if name not in origins:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        origin, attribute = origins[name]
        module = import_module(origin)
        # Stored in the package, so that Python asks only once.
        namespace[name] = getattr(module, attribute) if attribute else module
        return namespace[name]

    def list_names() -> list[str]:
        return sorted({*namespace, *origins})

    return get_name, list_names
