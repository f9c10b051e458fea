"""Find the class that a setting names: one of a folder with a file for each, or `package.module:Class`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from petiole.events.errors import UsageError


def find_class(package: str, name: str, *, choices: Sequence[str], setting: str, kind: str) -> type:
    """Return the class of `package` whose `name` is `name`, in the module of that name, or a class of one's own.

    Raises UsageError.
    """
    module_name, separator, class_name = name.partition(":")
    if not separator and name not in choices:
        raise _unknown(name, choices, setting, kind)
    if not separator:
        return _find_in_module(f"{package}.{name}", name)
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise _unknown(name, choices, setting, kind) from error
    if not isinstance(found, type):
        raise UsageError(f"{setting}: {name} is a {type(found).__name__}; name a class")
    return found


def _find_in_module(module_name: str, name: str) -> type:
    module = importlib.import_module(module_name)
    for member in vars(module).values():
        if isinstance(member, type) and member.__module__ == module_name and vars(member).get("name") == name:
            return member
    raise UsageError(f"{module_name} has no class whose `name` is {name!r}; give it one")


def _unknown(name: str, choices: Sequence[str], setting: str, kind: str) -> UsageError:
    known = ", ".join(map(repr, choices))
    return UsageError(f"there is no {kind} {name!r}; set {setting} to {known}, or 'package.module:Class' for your own")
