"""Language models, one file each: `rules` needs nothing, `openai` speaks to any endpoint of that protocol, `local` to a
small model on this machine.

`PETIOLE_LLM` names the one that answers. To add one, write `workers/llm/<name>.py` with a class whose `name`
is that name; one of your own elsewhere is named as `package.module:Class`.
tests/contracts/test_language_models.py holds them all to the same promises.
"""

from __future__ import annotations

import importlib
import pkgutil

from petiole.events.errors import UsageError
from petiole.workers.llm.provider import LanguageModel

__all__ = ["LanguageModel", "language_model", "names"]

_NO_MODELS = {"provider", "usage_limits"}


def names() -> list[str]:
    """List the language models of this folder."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return [name for name in found if name not in _NO_MODELS and not name.startswith("_")]


def language_model(name: str) -> LanguageModel:
    """Make the language model of that name: one of this folder, or `package.module:Class`.

    Raises: UsageError where there is none, UsageError (missing_extra) or NotConfigured where it lacks something.
    """
    made = _class_named(name)()
    if not isinstance(made, LanguageModel):
        raise UsageError(f"{name} is no language model: it needs a `name` and a method `answer(request)`")
    return made


def _class_named(name: str) -> type:
    if ":" in name:
        return _class_at(*name.split(":", 1))
    if name not in names():
        raise _unknown(name)
    module = importlib.import_module(f"{__name__}.{name}")
    for member in vars(module).values():
        if isinstance(member, type) and member.__module__ == module.__name__ and vars(member).get("name") == name:
            return member
    raise UsageError(f"{module.__name__} has no class whose `name` is {name!r}; give it one")


def _class_at(module_name: str, class_name: str) -> type:
    place = f"{module_name}:{class_name}"
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise _unknown(place) from error
    if not isinstance(found, type):
        raise UsageError(f"{place} is a {type(found).__name__}; name a class")
    return found


def _unknown(name: str) -> UsageError:
    choices = ", ".join(repr(known) for known in names())
    return UsageError(
        f"no language model {name!r}; set PETIOLE_LLM to {choices}, or 'package.module:Class' of your own"
    )
