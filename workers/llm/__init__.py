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

__all__ = ["LanguageModel", "create_model", "list_models"]

_HELPER_MODULES = {"provider", "usage_limits"}


def list_models() -> list[str]:
    """List the language models of this folder."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return [name for name in found if name not in _HELPER_MODULES and not name.startswith("_")]


def create_model(name: str) -> LanguageModel:
    """Make the language model of that name: one of this folder, or `package.module:Class`.

    Raises: UsageError where there is none, UsageError (missing_extra) or NotConfigured where it lacks something.
    """
    made = _find_model_class(name)()
    if not isinstance(made, LanguageModel):
        raise UsageError(f"{name} is no language model: it needs a `name` and a method `answer(request)`")
    return made


def _find_model_class(name: str) -> type:
    if ":" in name:
        return _import_model_class(*name.split(":", 1))
    if name not in list_models():
        raise _unknown_model(name)
    module = importlib.import_module(f"{__name__}.{name}")
    for member in vars(module).values():
        if isinstance(member, type) and member.__module__ == module.__name__ and vars(member).get("name") == name:
            return member
    raise UsageError(f"{module.__name__} has no class whose `name` is {name!r}; give it one")


def _import_model_class(module_name: str, class_name: str) -> type:
    place = f"{module_name}:{class_name}"
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise _unknown_model(place) from error
    if not isinstance(found, type):
        raise UsageError(f"{place} is a {type(found).__name__}; name a class")
    return found


def _unknown_model(name: str) -> UsageError:
    choices = ", ".join(repr(known) for known in list_models())
    return UsageError(
        f"no language model {name!r}; set PETIOLE_LLM to {choices}, or 'package.module:Class' of your own"
    )
