"""Language models, one file each.

    rules     fixed rules; needs no model and no network
    openai    any endpoint with OpenAI's chat completions
    local     a small model in a process on this machine

`PETIOLE_LLM` selects the model. To add one, write `workers/llm/<name>.py` with a class whose `name` is `<name>`, or
name a class of your own package as `package.module:Class`. tests/contracts/language_models tests all of them.
"""

from __future__ import annotations

import pkgutil

from petiole.events.errors import UsageError
from petiole.workers.llm.provider import LanguageModel
from petiole.workers.providers import find_class

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
    model = find_class(__name__, name, choices=list_models(), setting="PETIOLE_LLM", kind="language model")()
    if not isinstance(model, LanguageModel) or not isinstance(model.name, str):
        raise UsageError(f"{name} is not a language model; give it a text `name` and a method `answer(request, tools)`")
    return model
