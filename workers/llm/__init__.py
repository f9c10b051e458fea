"""Language models, one file each.

    rules     fixed rules; needs no model and no network
    openai    any endpoint with OpenAI's chat completions
    local     a small model in a process on this machine

`PETIOLE_LLM` selects the model. To add one, write `workers/llm/<name>.py` with a class whose `name` is `<name>`, or
name a class of your own package as `package.module:Class`. tests/contracts/language_models tests all of them.
"""

from __future__ import annotations

import importlib
import pkgutil

from petiole.events.errors import UsageError
from petiole.workers.llm.provider import LanguageModel

__all__ = ["LanguageModel", "create_model", "list_models"]

_HELPER_MODULES = {"prices", "provider", "spending_caps", "usage_limits"}


def list_models() -> list[str]:
    """List the language models of this folder."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return [name for name in names if name not in _HELPER_MODULES and not name.startswith("_")]


def create_model(name: str) -> LanguageModel:
    """Create the language model with this name: one of this folder, or `package.module:Class`.

    Raises:
        UsageError: The model does not exist, or needs an extra that is not installed (missing_extra).
        NotConfigured: The model needs a setting that is not set.
    """
    model = _find_model_class(name)()
    if not isinstance(model, LanguageModel):
        raise UsageError(f"{name} is not a language model; give it a `name` and a method `answer(request, tools)`")
    return model


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
    path = f"{module_name}:{class_name}"
    try:
        model_class = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise _unknown_model(path) from error
    if not isinstance(model_class, type):
        raise UsageError(f"PETIOLE_LLM: {path} is a {type(model_class).__name__}; name a class")
    return model_class


def _unknown_model(name: str) -> UsageError:
    choices = ", ".join(repr(known) for known in list_models())
    return UsageError(
        f"there is no language model {name!r}; set PETIOLE_LLM to {choices}, or 'package.module:Class' for your own"
    )
